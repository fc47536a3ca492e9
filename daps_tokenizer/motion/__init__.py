"""Motion of the Unitree H1: its kinematics and the features that a motion tokenizer sees."""
