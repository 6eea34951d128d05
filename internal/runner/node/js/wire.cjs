"use strict";
// The private connection with the worker, file descriptor 3. What it carries is described in protocol.go.
const { Socket } = require("node:net");

const immediate = setImmediate; // a task may replace the global one
const { parse } = JSON;

const newline = 10;

class Wire {
  // onFrame gets every frame, a parsed line. onEnd is called when the worker has gone, or says what cannot be understood: then attempts may have been missed.
  constructor(onFrame, onEnd) {
    this.onEnd = onEnd;
    this.out = "";
    this.held = []; // the beginning of a line that has not ended
    this.flushing = false;
    this.flush = this.flush.bind(this);
    // One buffer for all that comes: a new one for each piece kept the garbage collector busy.
    const onread = { buffer: Buffer.allocUnsafeSlow(64 << 10), callback: (n, buffer) => this.take(buffer.subarray(0, n), onFrame) };
    this.socket = new Socket({ fd: 3, readable: true, writable: true, onread });
    this.socket.resume();
    this.socket.on("error", onEnd);
    this.socket.on("close", onEnd);
    this.socket.on("end", onEnd);
  }

  take(chunk, onFrame) {
    let from = 0;
    for (let to; (to = chunk.indexOf(newline, from)) >= 0; from = to + 1) {
      let line;
      if (this.held.length > 0) {
        line = Buffer.concat([...this.held, chunk.subarray(from, to)]).toString();
        this.held = [];
      } else {
        line = chunk.toString("utf8", from, to);
      }
      let frame;
      try {
        frame = parse(line);
      } catch (broken) {
        this.onEnd(broken);
        return false;
      }
      onFrame(frame);
    }
    if (from < chunk.length) this.held.push(Buffer.from(chunk.subarray(from)));
    return true; // go on reading
  }

  // say sends a line, together with all others of this turn of the event loop.
  say(line) {
    this.out += line;
    if (!this.flushing) {
      this.flushing = true;
      immediate(this.flush);
    }
  }

  flush() {
    const { out } = this;
    this.out = "";
    this.flushing = false;
    if (out !== "" && this.socket.writable) this.socket.write(out);
  }
}

module.exports = { Wire };
