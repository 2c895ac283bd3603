/**
 * From token bytes to text that may be sent: whole characters only, stop strings cut off, and nothing held back except what
 * may still become a stop string or is half a character.
 */
import { StringDecoder } from 'node:string_decoder';

export interface TextOut {
  /** Text that can be sent now. */
  readonly text: string;
  /** A stop string was met: it and what followed are dropped. */
  readonly stopped: boolean;
}

/** Length of the longest end of `text` that begins one of the `stops` (and isn't all of it). */
export function heldLength(text: string, stops: readonly string[]): number {
  let held = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > held; length -= 1) {
      if (text.endsWith(stop.slice(0, length))) {
        held = length;
        break;
      }
    }
  }
  return held;
}

/** Index of the first stop string in `text`, or -1. Of two that begin at one place, either gives the same cut. */
function firstStop(text: string, stops: readonly string[]): number {
  let first = -1;
  for (const stop of stops) {
    const index = text.indexOf(stop);
    if (index >= 0 && (first < 0 || index < first)) first = index;
  }
  return first;
}

export class TextStream {
  readonly #stops: readonly string[];
  // Bytes that are no UTF-8 (a model may sample them) become U+FFFD, as everywhere on the web.
  readonly #decoder = new StringDecoder('utf8');
  #held = '';
  #stopped = false;

  /** Empty stop strings are ignored. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop.length > 0);
  }

  push(bytes: Uint8Array): TextOut {
    if (this.#stopped) return { text: '', stopped: true };
    return this.#take(
      this.#held + this.#decoder.write(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)),
      false,
    );
  }

  /** The output is over: what was held back, unless a stop string is in it. */
  end(): TextOut {
    if (this.#stopped) return { text: '', stopped: true };
    return this.#take(this.#held + this.#decoder.end(), true);
  }

  #take(text: string, last: boolean): TextOut {
    const stop = firstStop(text, this.#stops);
    if (stop >= 0) {
      this.#stopped = true;
      this.#held = '';
      return { text: text.slice(0, stop), stopped: true };
    }
    const keep = last ? 0 : heldLength(text, this.#stops);
    this.#held = keep === 0 ? '' : text.slice(text.length - keep);
    return { text: keep === 0 ? text : text.slice(0, text.length - keep), stopped: false };
  }
}
