/**
 * The one link between host and device, shared by weights and KV. KV goes first, in the order of asking; a load under way is pushed
 * back by as long as that takes, and loads go one after the other.
 */
import type { Bytes, Micros } from '../core/ids.ts';
import type { Timeline } from './timeline.ts';

interface Load {
  leftMicros: Micros;
  readonly onDone: () => void;
}

export class Link {
  readonly #timeline: Timeline;
  readonly #bytesPerSecond: number;
  readonly #quantum: Micros;
  readonly #loads: Load[] = [];
  #endsAt: Micros = 0;
  #version = 0;
  /** When the KV asked for so far has been moved. */
  kvFreeAt: Micros = 0;

  constructor(timeline: Timeline, bytesPerSecond: number, quantum: Micros) {
    this.#timeline = timeline;
    this.#bytesPerSecond = bytesPerSecond;
    this.#quantum = quantum;
  }

  microsOf(bytes: Bytes): Micros {
    return Math.floor((bytes * 1e6) / this.#bytesPerSecond / this.#quantum) * this.#quantum;
  }

  /** Moves KV in either direction; when it is through. */
  moveKv(bytes: Bytes): Micros {
    const micros = this.microsOf(bytes);
    this.kvFreeAt = Math.max(this.kvFreeAt, this.#timeline.now) + micros;
    if (this.#loads.length > 0) this.#endAt(this.#endsAt + micros);
    return this.kvFreeAt;
  }

  bring(bytes: Bytes, onDone: () => void): void {
    this.#loads.push({ leftMicros: this.microsOf(bytes), onDone });
    if (this.#loads.length === 1) this.#next();
  }

  #next(): void {
    const [load] = this.#loads;
    if (load !== undefined) this.#endAt(Math.max(this.kvFreeAt, this.#timeline.now) + load.leftMicros);
  }

  #endAt(at: Micros): void {
    const version = ++this.#version;
    this.#endsAt = at;
    this.#timeline.at(at, () => {
      if (version !== this.#version) return;
      const load = this.#loads.shift();
      this.#next();
      load?.onDone();
    });
  }
}
