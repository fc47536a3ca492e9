"""How good generated images are, judged by a classifier that was trained on real ones."""
