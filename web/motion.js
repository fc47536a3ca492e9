/**
 * Motion of a robot in JavaScript: clips as CSV, the features that a motion model reads, poses, and where they put the
 * robot in space. The same as `daps_tokenizer/motion`, which says what each number is.
 *
 * @typedef {{parent: number, position: number[], axis: number[], mounting: number[], limits: number[]}} Link
 * @typedef {{links: Link[], sites: [string, number, number[]][], bones: [string, string][], columns: string[],
 *   turning: number[], name: string, centre: string, feet: string[], features: string[]}} Robot written by `python -m export web`
 * @typedef {number[]} Vector
 * @typedef {number[][]} Matrix 3 × 3, rows
 */
import { DapsError } from "./daps.js";

/**
 * Read a clip as CSV: a row of numbers for each frame, no header.
 *
 * @param {string} text @param {Robot} robot @param {string} [source] what errors call it
 * @returns {Vector[]} poses: root position, root quaternion x y z w of unit length, joint angles
 */
export function readClip(text, robot, source = "the clip") {
  const rows = text.replace(/^\ufeff/, "").trimEnd().split(/\r?\n/);
  const width = robot.columns.length;
  const refuse = (/** @type {string} */ why) => {
    throw new DapsError(`${source}: ${why}`);
  };
  if (rows.length < 2) refuse(`has ${rows[0] ? 1 : 0} rows; a clip has at least 2, of ${width} numbers each`);
  if (rows.length > 1800) refuse(`has ${rows.length} frames; this page takes up to 1,800, a minute`);
  return rows.map((row, r) => {
    const cells = row.split(",");
    const pose = cells.map((cell) => (cell.trim() === "" ? NaN : Number(cell)));
    if (cells.length !== width) {
      refuse(`row ${r + 1} has ${cells.length} columns; expected ${width}: root x y z, quaternion x y z w, joint angles`);
    }
    const bad = pose.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const found = JSON.stringify(cells[bad].trim().slice(0, 40));
      refuse(`row ${r + 1}, column ${bad + 1} (${robot.columns[bad]}): ${found} is not a number`);
    }
    const far = pose.findIndex((value, c) => Math.abs(value) > (c < 3 ? 10000 : c < 7 ? 2 : 2 * Math.PI));
    if (far >= 0) {
      const expected = far < 3 ? "metres" : "an angle in radians";
      refuse(`row ${r + 1}, column ${far + 1} (${robot.columns[far]}): ${pose[far]}; expected ${expected}`);
    }
    const length = Math.hypot(...pose.slice(3, 7));
    if (Math.abs(length - 1) > 1e-3) {
      refuse(`row ${r + 1}, columns 4 to 7 (root quaternion): a length of ${length.toFixed(3)}; expected 1`);
    }
    for (let c = 3; c < 7; c++) pose[c] /= length;
    return pose;
  });
}

/** @param {Vector[]} poses */
export const writeClip = (poses) =>
  poses.map((pose) => `${pose.map((value) => value.toFixed(6)).join(",")}\n`).join("");

/**
 * The features of a clip, frame by frame.
 *
 * @param {Vector[]} poses @param {Robot} robot @param {number} fps
 * @returns {Float32Array[]}
 */
export function features(poses, robot, fps) {
  const names = robot.sites.map(([name]) => name);
  const centre = names.indexOf(robot.centre);
  const others = names.map((_, i) => i).filter((i) => i !== centre);
  const [left, right] = robot.feet.map((foot) => names.indexOf(foot));
  const split = poses.map((pose) => splitHeading(pose.slice(3, 7)));
  const headings = unwrap(split.map(({ heading }) => heading));
  const last = poses.length - 1;
  return poses.map((pose, t) => {
    const [before, after] = [Math.max(t - 1, 0), Math.min(t + 1, last)];
    const next = Math.min(t, last - 1); // the last frame repeats the rate of the one before it
    const central = (/** @type {number} */ c) => ((poses[after][c] - poses[before][c]) * fps) / (after - before);
    const back = about(2, -split[t].heading);
    const step = [0, 1, 2].map((c) => (poses[next + 1][c] - poses[next][c]) * fps);
    const { positions, rotations } = kinematics(pose, robot);
    const from = rotations[centre];
    const velocity = times(back, step);
    const turned = rotationVector(multiply(poses[after].slice(3, 7), conjugate(poses[before].slice(3, 7))));
    const spin = times(back, turned.map((value) => (value * fps) / (after - before)));
    const sines = others.flatMap((site) => {
      const relative = product(transposed(from), rotations[site]);
      return [
        (relative[2][1] - relative[1][2]) / 2,
        (relative[0][2] - relative[2][0]) / 2,
        (relative[1][0] - relative[0][1]) / 2,
      ];
    });
    const turnRate = (headings[next + 1] - headings[next]) * fps;
    /** @type {Record<string, number[]>} */
    const groups = {
      root: [pose[2], ...split[t].tilt.slice(0, 2)],
      foot_heights: [positions[left][2], positions[right][2]],
      joints: pose.slice(7),
      root_velocity: [velocity[0], velocity[1], central(2), spin[0], spin[1], turnRate],
      joint_velocities: pose.slice(7).map((_, joint) => central(7 + joint)),
      positions: others.flatMap((site) => times(back, minus(positions[site], positions[centre]))),
      rotations: robot.turning.map((column) => sines[column]),
      gravity: rotation(pose.slice(3, 7))[2].map((value) => -value),
    };
    return Float32Array.from(robot.features.flatMap((group) => groups[group]));
  });
}

/**
 * The poses that features stand for; the path is the root's velocity and turning, added up.
 *
 * @param {ArrayLike<number>[]} frames @param {Robot} robot @param {number} fps
 * @param {Vector} [start] x, y and heading of the first frame
 * @returns {Vector[]}
 */
export function toPoses(frames, robot, fps, [x, y, heading] = [0, 0, 0]) {
  const joints = robot.links.length;
  return Array.from(frames, (frame) => {
    const [tx, ty] = [frame[1], frame[2]];
    const long = Math.max(1, Math.hypot(tx, ty)); // decoded features may overshoot by a little
    const tilt = [tx / long, ty / long, 0, Math.sqrt(Math.max(0, 1 - (tx * tx + ty * ty) / (long * long)))];
    const angles = robot.links.map(({ limits }, i) => Math.min(limits[1], Math.max(limits[0], frame[5 + i])));
    const pose = [x, y, frame[0], ...multiply(headingQuaternion(heading), tilt), ...angles];
    const velocity = 5 + joints;
    const step = times(about(2, heading), [frame[velocity], frame[velocity + 1], 0]);
    x += step[0] / fps;
    y += step[1] / fps;
    heading += frame[velocity + 5] / fps;
    return pose;
  });
}

/**
 * Poses whose root moves along the ground so that feet that stand, which are low and slow, move less; smoothly.
 *
 * @param {Vector[]} poses @param {Robot} robot @param {number} fps
 * @returns {Vector[]}
 */
export function plantFeet(poses, robot, fps) {
  const { weights, velocity } = standing(poses, robot, fps);
  const correction = [0, 1].map((axis) => {
    const rough = weights.map((own, t) => {
      const sum = own.reduce((a, b) => a + b, 0);
      const slide = own.reduce((all, weight, foot) => all + weight * velocity(t, foot, axis), 0) / Math.max(sum, 1e-6);
      return Math.min(sum, 1) * slide;
    });
    return smoothed(rough, fps, 9);
  });
  let [x, y] = [0, 0];
  return poses.map((pose, t) => {
    if (t) [x, y] = [x - correction[0][t - 1] / fps, y - correction[1][t - 1] / fps];
    return [pose[0] + x, pose[1] + y, ...pose.slice(2)];
  });
}

/** By a Hann window over time, `frames` long at 30 frames a second. @param {number[]} values @param {number} fps @param {number} frames */
function smoothed(values, fps, frames) {
  const reach = Math.max(1, Math.ceil((frames * fps) / 60 - 0.5));
  const hann = Array.from({ length: 2 * reach + 1 }, (_, i) => 0.5 - 0.5 * Math.cos((Math.PI * (i + 1)) / (reach + 1)));
  const total = hann.reduce((sum, weight) => sum + weight, 0);
  const at = (/** @type {number} */ t) => values[Math.max(0, Math.min(t, values.length - 1))];
  return values.map((_, t) => hann.reduce((sum, weight, i) => sum + weight * at(t + i - reach), 0) / total);
}

const [ALWAYS, IN_THE_AIR, CHANGE, DAMPING] = [0.001, 0.1, 0.03, 1e-3];

/**
 * Poses whose legs keep feet that stand from sliding, within the limits of their joints; the root stays where it is.
 *
 * @param {Vector[]} poses @param {Robot} robot @param {number} fps
 * @returns {Vector[]}
 */
export function holdFeet(poses, robot, fps) {
  const { weights, velocity } = standing(poses, robot, fps);
  const feet = robot.feet.map((foot, number) => {
    const [, link, place] = /** @type {[string, number, number[]]} */ (robot.sites.find(([name]) => name === foot));
    const leg = [];
    for (let joint = link; joint >= 0; joint = robot.links[joint].parent) leg.unshift(joint);
    const own = weights.map((each) => each[number]);
    const steps = [0, 1].map((axis) => own.map((weight, t) => (weight * velocity(t, number, axis)) / fps));
    const [x, y] = steps.map((moved) => offsetsOf(own, moved));
    return { link, place, leg, x, y };
  });
  return poses.map((pose, t) => {
    const held = [...pose];
    /** @type {Vector[]} */
    const targets = [];
    for (let round = 0; round < 2; round++) {
      const { rotations, positions } = linkFrames(held, robot);
      feet.forEach(({ link, place, leg, x, y }, foot) => {
        const at = plus(positions[link + 1], times(rotations[link + 1], place));
        targets[foot] ??= plus(at, [x[t], y[t], 0]);
        const moves = leg.map((joint) => cross(times(rotations[joint + 1], robot.links[joint].axis), minus(at, positions[joint + 1])));
        const square = [0, 1, 2].map((i) =>
          [0, 1, 2].map((j) => moves.reduce((sum, move) => sum + move[i] * move[j], i === j ? DAMPING : 0)),
        );
        const pull = solved(square, minus(targets[foot], at));
        leg.forEach((joint, i) => (held[7 + joint] += dot(moves[i], pull)));
      });
      robot.links.forEach(({ limits }, i) => (held[7 + i] = Math.min(limits[1], Math.max(limits[0], held[7 + i]))));
    }
    return held;
  });
}

/**
 * How far a foot is moved along one axis in each frame: a tridiagonal system, see `daps_tokenizer/motion/feet.py`.
 *
 * @param {number[]} weights how surely it stands, between a frame and the next @param {number[]} moved weights times steps
 */
function offsetsOf(weights, moved) {
  const frames = weights.length + 1;
  const of = (/** @type {number[]} */ values, /** @type {number} */ t) => values[t] ?? 0;
  const pull = weights.map((weight) => weight + CHANGE);
  const diagonal = Array.from({ length: frames }, (_, t) => {
    const [before, after] = [of(weights, t - 1), of(weights, t)];
    return ALWAYS + IN_THE_AIR * (1 - Math.max(before, after)) + of(pull, t - 1) + of(pull, t);
  });
  const offsets = Array.from({ length: frames }, (_, t) => of(moved, t) - of(moved, t - 1));
  for (let t = 1; t < frames; t++) {
    const share = pull[t - 1] / diagonal[t - 1];
    diagonal[t] -= share * pull[t - 1];
    offsets[t] += share * offsets[t - 1];
  }
  for (let t = frames - 1; t >= 0; t--) offsets[t] = (offsets[t] + of(pull, t) * of(offsets, t + 1)) / diagonal[t];
  return offsets;
}

/**
 * Where the root was at the end of every window, in steps from the anchor before: whole centimetres and half degrees.
 *
 * @param {Vector[]} poses @param {number} length of a window
 * @returns {number[][]}
 */
export function anchorsOf(poses, length) {
  const places = placesOf(poses);
  let last = places[0];
  return endsOf(poses.length, length).map((end) => {
    const step = minus(places[end], last);
    step[2] = wrapped(step[2]);
    const units = step.map((value, i) => Math.round(value / ANCHOR_UNITS[i]) + 0);
    last = last.map((value, i) => value + units[i] * ANCHOR_UNITS[i]);
    return units;
  });
}

/**
 * Poses bent so that the root passes through its anchors, most where no foot stands.
 *
 * @param {Vector[]} poses @param {number[][]} anchors @param {number} length of a window @param {Robot} robot
 * @param {number} fps
 * @returns {Vector[]}
 */
export function followAnchors(poses, anchors, length, robot, fps) {
  const ends = endsOf(poses.length, length);
  if (anchors.length !== ends.length) throw new DapsError(`the clip has ${anchors.length} anchors; expected ${ends.length}`);
  const places = placesOf(poses);
  let target = places[0];
  const targets = anchors.map((anchor) => (target = target.map((value, i) => value + anchor[i] * ANCHOR_UNITS[i])));
  const knots = [0, ...ends];
  const off = unwrap([0, ...ends.map((end, i) => wrapped(targets[i][2] - places[end][2]))]);
  const turned = poses.map((_, t) => interpolated(t, knots, off));
  let [x, y] = poses[0];
  const bent = poses.map((pose, t) => {
    if (t) {
      const step = times(about(2, turned[t - 1]), [pose[0] - poses[t - 1][0], pose[1] - poses[t - 1][1], 0]);
      [x, y] = [x + step[0], y + step[1]];
    }
    return [x, y, pose[2], ...multiply(headingQuaternion(turned[t]), pose.slice(3, 7)), ...pose.slice(7)];
  });
  let share = 0;
  const done = [0]; // how much of the correction each frame has had
  for (const feet of standing(bent, robot, fps).weights) {
    share += 1.05 - Math.min(feet.reduce((a, b) => a + b, 0), 1);
    done.push(share);
  }
  const at = knots.map((knot) => done[knot]);
  const missing = [0, 1].map((axis) => [0, ...ends.map((end, i) => targets[i][axis] - bent[end][axis])]);
  return bent.map((pose, t) => {
    const [dx, dy] = missing.map((values) => interpolated(done[t], at, values));
    return [pose[0] + dx, pose[1] + dy, ...pose.slice(2)];
  });
}

const ANCHOR_UNITS = [0.01, 0.01, Math.PI / 360]; // metres, metres and radians

/** The last frame of each window. @param {number} frames @param {number} length */
const endsOf = (frames, length) => {
  const ends = Array.from({ length: Math.max(1, Math.ceil(frames / length)) }, (_, i) => Math.min((i + 1) * length, frames - 1));
  return ends.filter((end, i) => end !== ends[i - 1]);
};

/** An angle from −π to π. @param {number} angle */
const wrapped = (angle) => angle - 2 * Math.PI * Math.floor((angle + Math.PI) / (2 * Math.PI));

/** x, y and heading, continuous over time. @param {Vector[]} poses */
function placesOf(poses) {
  const headings = unwrap(poses.map((pose) => startOf(pose)[2]));
  return poses.map((pose, t) => [pose[0], pose[1], headings[t]]);
}

/** Along straight lines between knots. @param {number} at @param {number[]} knots @param {number[]} values */
function interpolated(at, knots, values) {
  const next = knots.findIndex((knot) => knot > at);
  if (next < 1) return values[next < 0 ? values.length - 1 : 0];
  return values[next - 1] + ((values[next] - values[next - 1]) * (at - knots[next - 1])) / (knots[next] - knots[next - 1]);
}

/**
 * How surely each foot stands between a frame and the next, from 0 to 1, and how fast it moves along the ground.
 *
 * @param {Vector[]} poses @param {Robot} robot @param {number} fps
 */
function standing(poses, robot, fps) {
  const feet = robot.feet.map((foot) => robot.sites.findIndex(([name]) => name === foot));
  const places = poses.map((pose) => {
    const { positions } = kinematics(pose, robot);
    return feet.map((foot) => positions[foot]);
  });
  const last = poses.length - 2; // of the steps from a frame to the next
  const velocity = (/** @type {number} */ t, /** @type {number} */ foot, /** @type {number} */ axis) =>
    (places[t + 1][foot][axis] - places[t][foot][axis]) * fps;
  const smooth = feet.map((_, foot) =>
    [0, 1].map((axis) => smoothed(Array.from({ length: last + 1 }, (_, t) => velocity(t, foot, axis)), fps, 5)),
  );
  const below = (/** @type {number} */ value, /** @type {number} */ limit, /** @type {number} */ soft) =>
    1 / (1 + Math.exp(Math.max(-50, Math.min(50, (value - limit) / soft))));
  const weights = places.slice(1).map((after, t) =>
    feet.map((_, foot) => {
      const height = Math.max(places[t][foot][2], after[foot][2]);
      return below(height, 0.08, 0.02) * below(Math.hypot(smooth[foot][0][t], smooth[foot][1][t]), 0.8, 0.1);
    }),
  );
  return { weights, velocity };
}

/** x, y and heading of a pose. @param {Vector} pose */
export const startOf = (pose) => [pose[0], pose[1], splitHeading(pose.slice(3, 7)).heading];

/**
 * Cut frames into windows of a length; the last is filled up with its last frame.
 *
 * @param {Float32Array[]} frames @param {number} length
 * @returns {Float32Array} the windows one after the other
 */
export function cutWindows(frames, length) {
  const count = Math.max(1, Math.ceil(frames.length / length));
  const width = frames[0].length;
  const windows = new Float32Array(count * length * width);
  for (let t = 0; t < count * length; t++) windows.set(frames[Math.min(t, frames.length - 1)], t * width);
  return windows;
}

/**
 * Windows that follow one another as one clip, without the jump where one ends and the next begins.
 *
 * @param {Float32Array} windows @param {number} length of a window @param {number} width features of a frame
 * @param {number} frames of the clip
 * @returns {Float64Array[]}
 */
export function joinWindows(windows, length, width, frames) {
  const clip = Array.from({ length: windows.length / width }, (_, t) =>
    Float64Array.from(windows.subarray(t * width, (t + 1) * width)),
  );
  const given = clip.map((frame) => frame.slice());
  const reach = Math.min(6, Math.floor(length / 2));
  for (let seam = length; seam < clip.length; seam += length) {
    const [a, b, c, d] = [given[seam - 2], given[seam - 1], given[seam], given[seam + 1]];
    for (let f = 0; f < width; f++) {
      const jump = c[f] - b[f] - (b[f] - a[f] + d[f] - c[f]) / 2;
      for (let i = 0; i < reach; i++) {
        const share = (jump / 2) * (1 - (i + 0.5) / reach);
        clip[seam - 1 - i][f] += share;
        clip[seam + i][f] -= share;
      }
    }
  }
  return clip.slice(0, frames);
}

/**
 * Where a pose puts the robot's sites.
 *
 * @param {Vector} pose @param {Robot} robot
 * @returns {{positions: Vector[], rotations: Matrix[]}} in metres and site to world, in the order of `robot.sites`
 */
export function kinematics(pose, robot) {
  const { rotations, positions } = linkFrames(pose, robot);
  return {
    positions: robot.sites.map(([, link, place]) => plus(positions[link + 1], times(rotations[link + 1], place))),
    rotations: robot.sites.map(([, link]) => rotations[link + 1]),
  };
}

/** Positions and rotations of the root and of each joint's link, link to world. @param {Vector} pose @param {Robot} robot */
function linkFrames(pose, robot) {
  const rotations = [rotation(pose.slice(3, 7))];
  const positions = [pose.slice(0, 3)];
  robot.links.forEach((link, i) => {
    const carrier = rotations[link.parent + 1];
    positions.push(plus(positions[link.parent + 1], times(carrier, link.position)));
    const mounted = link.mounting[3] === 1 ? carrier : product(carrier, rotation(link.mounting));
    const half = pose[7 + i] / 2;
    const turn = [...link.axis.map((share) => share * Math.sin(half)), Math.cos(half)];
    rotations.push(product(mounted, rotation(turn)));
  });
  return { rotations, positions };
}

/** Cut an orientation into a turn about the vertical and the tilt. @param {Vector} quaternion */
function splitHeading([x, y, z, w]) {
  let heading = 2 * Math.atan2(z, w) + Math.PI;
  heading = heading - 2 * Math.PI * Math.floor(heading / (2 * Math.PI)) - Math.PI;
  let tilt = multiply(headingQuaternion(-heading), [x, y, z, w]);
  if (tilt[3] < 0) tilt = tilt.map((value) => -value);
  tilt[2] = 0;
  return { heading, tilt };
}

/** @param {number[]} angles without jumps of a whole turn */
function unwrap(angles) {
  let turns = 0;
  return angles.map((angle, i) => {
    if (i) turns -= Math.round((angle - angles[i - 1]) / (2 * Math.PI));
    return angle + 2 * Math.PI * turns;
  });
}

const plus = (/** @type {Vector} */ a, /** @type {Vector} */ b) => a.map((value, i) => value + b[i]);
const minus = (/** @type {Vector} */ a, /** @type {Vector} */ b) => a.map((value, i) => value - b[i]);
/** @param {Vector} a @param {Vector} b */
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
/** @param {Vector} a @param {Vector} b */
const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
/** x of m x = v, m symmetric. @param {Matrix} m @param {Vector} v */
const solved = (m, v) => {
  const adjugate = [cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1])];
  return times(adjugate, v).map((value) => value / dot(m[0], adjugate[0]));
};
/** @param {Matrix} m @param {Vector} v */
export const times = (m, v) => m.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
const transposed = (/** @type {Matrix} */ m) => m.map((_, i) => m.map((row) => row[i]));
/** @param {Matrix} a @param {Matrix} b */
export const product = (a, b) => {
  const columns = transposed(b);
  return a.map((row) => times(columns, row));
};
const conjugate = (/** @type {Vector} */ [x, y, z, w]) => [-x, -y, -z, w];
const headingQuaternion = (/** @type {number} */ angle) => [0, 0, Math.sin(angle / 2), Math.cos(angle / 2)];

/** Rotation about x, y or z (0, 1, 2). @param {number} axis @param {number} angle @returns {Matrix} */
export function about(axis, angle) {
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  if (axis === 0) return [[1, 0, 0], [0, c, -s], [0, s, c]];
  if (axis === 1) return [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  return [[c, -s, 0], [s, c, 0], [0, 0, 1]];
}

/** @param {Vector} quaternion @returns {Matrix} */
function rotation(quaternion) {
  const length = Math.hypot(...quaternion);
  const [x, y, z, w] = quaternion.map((value) => value / length);
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
  ];
}

/** The Hamilton product: first `b`, then `a`. @param {Vector} a @param {Vector} b @returns {Vector} */
function multiply([ax, ay, az, aw], [bx, by, bz, bw]) {
  return [
    aw * bx + bw * ax + ay * bz - az * by,
    aw * by + bw * ay + az * bx - ax * bz,
    aw * bz + bw * az + ax * by - ay * bx,
    aw * bw - ax * bx - ay * by - az * bz,
  ];
}

/** Axis times angle. @param {Vector} quaternion @returns {Vector} */
function rotationVector(quaternion) {
  const [x, y, z, w] = quaternion[3] < 0 ? quaternion.map((value) => -value) : quaternion;
  const sine = Math.hypot(x, y, z);
  const scale = sine < 1e-9 ? 2 / w : (2 * Math.atan2(sine, w)) / sine;
  return [x * scale, y * scale, z * scale];
}
