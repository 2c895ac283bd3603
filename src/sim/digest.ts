/** A running 64-bit FNV-1a over text, in two halves: equal digests mean equal runs. */
export class Digest {
  #high = 0xcbf29ce4;
  #low = 0x84222325;

  add(text: string): void {
    for (let i = 0; i < text.length; i++) {
      this.#low = Math.imul(this.#low ^ text.charCodeAt(i), 0x01000193);
      this.#high = Math.imul(this.#high ^ (this.#low >>> 7), 0x01000193);
    }
  }

  toString(): string {
    const hex = (half: number): string => (half >>> 0).toString(16).padStart(8, '0');
    return hex(this.#high) + hex(this.#low);
  }
}
