"use strict";
// What a task prints, as lines of its job's log. The first ones go out as they come, up to a budget; of the rest the last
// ones are kept until the attempt is over, and in between there is a count.
const { StringDecoder } = require("node:string_decoder");

const maxLine = 16 << 10;
const budget = 1 << 20;
const kept = 12 << 10; // with the line that counts, it fits into what is stored of the end of a log
const lineCost = 64; // so that a flood of empty lines ends too

class Output {
  constructor(emit) {
    this.emit = emit; // (level, text, attributes)
    this.left = budget;
    this.tail = []; // of what came when the budget was used up
    this.tailSize = 0;
    this.dropped = 0;
    this.droppedSize = 0;
    this.streams = {}; // what stdout and stderr have begun
  }

  // write takes a piece of a stream.
  write(level, chunk) {
    const stream = (this.streams[level] ??= { decoder: new StringDecoder("utf8"), begun: "", size: 0 });
    const text = typeof chunk === "string" ? chunk : stream.decoder.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    let from = 0;
    for (let to; (to = text.indexOf("\n", from)) >= 0; from = to + 1) {
      hold(stream, text, from, to);
      this.end(level, stream);
    }
    hold(stream, text, from, text.length);
  }

  end(level, stream) {
    let { begun, size } = stream;
    stream.begun = "";
    stream.size = 0;
    if (size > maxLine) begun += ` … [cut: ${size} characters in all]`;
    else if (begun.endsWith("\r")) begun = begun.slice(0, -1);
    this.line(level, begun);
  }

  // log takes a message of the logger.
  log(level, text, attributes) {
    for (let line of text.split("\n")) {
      if (line.length > maxLine) line = `${line.slice(0, maxLine)} … [cut: ${line.length} characters in all]`;
      this.line(level, line, attributes);
    }
  }

  line(level, text, attributes) {
    const size = text.length + lineCost;
    if (this.left >= size) {
      this.left -= size;
      this.emit(level, text, attributes);
      return;
    }
    if (this.left >= 0) {
      this.left = -1;
      this.emit("warn", "the task prints much: from here on only its last lines are logged, when it has ended");
    }
    const bytes = Buffer.byteLength(text) + (attributes ? Buffer.byteLength(JSON.stringify(attributes)) : 0) + lineCost;
    this.tail.push({ level, text, attributes, bytes });
    this.tailSize += bytes;
    let gone = 0;
    while (this.tailSize > kept && gone < this.tail.length - 1) {
      const first = this.tail[gone++];
      this.tailSize -= first.bytes;
      this.dropped++;
      this.droppedSize += first.text.length;
    }
    if (gone > 0) this.tail.splice(0, gone);
  }

  // finish writes what was held back: the attempt is over.
  finish() {
    for (const level of Object.keys(this.streams)) if (this.streams[level].size > 0) this.end(level, this.streams[level]);
    if (this.dropped > 0) this.emit("warn", `${this.dropped} lines (${this.droppedSize} characters) of the task's output were dropped here`);
    for (const { level, text, attributes } of this.tail) this.emit(level, text, attributes);
    this.tail = [];
  }
}

// hold adds a piece to the line that has begun, of which no more is kept than will be shown.
function hold(stream, text, from, to) {
  const room = maxLine - stream.begun.length;
  if (room > 0) stream.begun += text.slice(from, Math.min(to, from + room));
  stream.size += to - from;
}

module.exports = { Output };
