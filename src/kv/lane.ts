/** Tasks in the order of their coming, a few at once. Tasks never reject. */
type Task = () => Promise<void>;

export interface Lane {
  run(task: Task): void;
  /** Waiting and under way. */
  size(): number;
  /** Drops what has not begun. */
  clear(): void;
  /** Resolves when nothing is left to do. */
  idle(): Promise<void>;
}

export function createLane(width: number): Lane {
  let waiting: Task[] = [];
  let busy = 0;
  let listeners: (() => void)[] = [];

  const next = (): void => {
    while (busy < width) {
      const task = waiting.shift();
      if (task === undefined) break;
      busy++;
      void task().finally(() => {
        busy--;
        next();
      });
    }
    if (busy + waiting.length > 0) return;
    const told = listeners;
    listeners = [];
    for (const listener of told) listener();
  };

  return {
    run(task) {
      waiting.push(task);
      next();
    },
    size: () => busy + waiting.length,
    clear() {
      waiting = [];
      next();
    },
    idle: () =>
      new Promise((resolve) => {
        listeners.push(resolve);
        next();
      }),
  };
}
