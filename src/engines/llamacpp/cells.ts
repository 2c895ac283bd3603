/**
 * How many cells of the unified KV cache are in use. Sequences that begin alike share the cells of what they have in common
 * (`llama_memory_seq_cp`), so lengths do not add up to it: cells are counted by runs of them, each with its holders. Pure.
 */

interface Run {
  cells: number;
  holders: number;
}

export class CellBook {
  readonly #seats = new Map<number, Run[]>();
  #used = 0;

  get used(): number {
    return this.#used;
  }

  /** Cells of this seat's sequence, shared or not. */
  lengthOf(seat: number): number {
    return (this.#seats.get(seat) ?? []).reduce((sum, { cells }) => sum + cells, 0);
  }

  /** So many new cells of its own. */
  append(seat: number, cells: number): void {
    if (cells === 0) return;
    const runs = this.#runsOf(seat);
    const last = runs.at(-1);
    if (last?.holders === 1) last.cells += cells;
    else runs.push({ cells, holders: 1 });
    this.#used += cells;
  }

  /** The seat `to`, which holds as many cells as `to`'s length, goes on with those of `from` up to `end`. */
  share(from: number, to: number, end: number): void {
    const start = this.lengthOf(to);
    this.#cut(from, start);
    this.#cut(from, end);
    let at = 0;
    const shared: Run[] = [];
    for (const run of this.#runsOf(from)) {
      if (at >= start && at < end) {
        run.holders += 1;
        shared.push(run);
      }
      at += run.cells;
    }
    this.#runsOf(to).push(...shared);
  }

  /** Keeps the first `cells` of the seat. */
  truncate(seat: number, cells: number): void {
    this.#cut(seat, cells);
    const runs = this.#runsOf(seat);
    for (let at = this.lengthOf(seat); at > cells; ) {
      const run = runs.pop() as Run;
      at -= run.cells;
      run.holders -= 1;
      if (run.holders === 0) this.#used -= run.cells;
    }
    if (runs.length === 0) this.#seats.delete(seat);
  }

  clear(): void {
    this.#seats.clear();
    this.#used = 0;
  }

  #runsOf(seat: number): Run[] {
    const runs = this.#seats.get(seat) ?? [];
    this.#seats.set(seat, runs);
    return runs;
  }

  /** Makes a run end at `position` of the seat, for all who hold it. */
  #cut(seat: number, position: number): void {
    let at = 0;
    for (const run of this.#runsOf(seat)) {
      if (position > at && position < at + run.cells) {
        const rest: Run = { cells: at + run.cells - position, holders: run.holders };
        run.cells = position - at;
        for (const runs of this.#seats.values()) {
          const index = runs.indexOf(run);
          if (index >= 0) runs.splice(index + 1, 0, rest);
        }
        return;
      }
      at += run.cells;
    }
  }
}
