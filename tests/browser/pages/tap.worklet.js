// Passes sound through and posts a copy of it, in blocks of 4096 frames, with the frame it began at: a missing
// block would show as a jump in that number.

const BLOCK = 4096;

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.fill = 0;
    this.block = [new Float32Array(BLOCK), new Float32Array(BLOCK)];
    this.began = 0;
  }

  process([input], [output]) {
    const quantum = 128;
    if (this.fill === 0) this.began = currentFrame;
    for (let channel = 0; channel < 2; channel++) {
      const heard = input[channel] ?? input[0];
      if (heard) {
        this.block[channel].set(heard, this.fill);
        output[channel]?.set(heard);
      } else {
        this.block[channel].fill(0, this.fill, this.fill + quantum);
      }
    }
    this.fill += quantum;
    if (this.fill === BLOCK) {
      const [left, right] = this.block;
      this.port.postMessage({ began: this.began, left, right }, [left.buffer, right.buffer]);
      this.block = [new Float32Array(BLOCK), new Float32Array(BLOCK)];
      this.fill = 0;
    }
    return true;
  }
}

registerProcessor("tap", Tap);
