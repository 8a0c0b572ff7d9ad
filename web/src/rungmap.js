// The picture behind the seek bar: one block per segment, as high as its rung, so that a change of quality can
// be seen where it was or will be heard. Dark: behind the listener. Light: buffered ahead.

export class RungMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.segments = new Map(); // start in milliseconds → segment; a reload of the same place replaces it
    this.drawn = "";
  }

  clear() {
    this.segments.clear();
    this.drawn = "";
  }

  add(segment) {
    this.segments.set(Math.round(segment.start * 1000), segment);
  }

  draw(position, length, buffered) {
    const { canvas } = this;
    const scale = globalThis.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    const playedTo = length > 0 ? Math.round((position / length) * width) : 0;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const key = [width, height, playedTo, dark, ...ranges(buffered), ...this.shape()].join();
    if (key === this.drawn || !width) return;
    this.drawn = key;

    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const paint = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const thin = Math.max(1, Math.round(2 * scale));
    paint.clearRect(0, 0, width, height);
    paint.fillStyle = colour("--rest");
    paint.fillRect(0, height - thin, width, thin);
    if (!(length > 0)) return;

    const x = (seconds) => Math.round((seconds / length) * width);
    const block = (from, to, share, name) => {
      if (to <= from) return;
      const top = Math.round(height * (1 - share * 0.9));
      paint.fillStyle = colour(name);
      paint.fillRect(from, top, to - from, height - top);
    };
    for (const { start, end, height: share } of this.segments.values()) {
      const last = x(end) - thin / 2; // a hair of space between neighbours
      block(x(start), Math.min(last, playedTo), share, "--played");
      for (let i = 0; i < buffered.length; i++) {
        block(Math.max(x(start), x(buffered.start(i)), playedTo), Math.min(last, x(buffered.end(i))), share, "--ahead");
      }
    }
    paint.fillStyle = colour("--played");
    paint.fillRect(0, height - thin, playedTo, thin);
  }

  shape() {
    return [...this.segments.values()].map((segment) => `${segment.start.toFixed(2)}:${segment.height}`);
  }
}

function ranges(buffered) {
  const list = [];
  for (let i = 0; i < buffered.length; i++) list.push(`${buffered.start(i).toFixed(1)}-${buffered.end(i).toFixed(1)}`);
  return list;
}
