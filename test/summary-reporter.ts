/**
 * The last line of a test run: `N passed, N failed` (and `, N skipped`), over all projects. A file that can't be imported, a
 * suite whose hook throws and an error that no test caught count as failures too: a run with any of them is not green.
 */
import type { SerializedError } from 'vitest';
import type { Reporter, TestModule } from 'vitest/node';

export interface Summary {
  passed: number;
  failed: number;
  skipped: number;
}

/** Counts what a run left behind. A test that never ended (its worker died) is a failure. */
export function summarise(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): Summary {
  const sum: Summary = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
  for (const module of modules) {
    const failedBefore = sum.failed;
    for (const test of module.children.allTests()) {
      const { state } = test.result();
      if (state === 'passed') sum.passed += 1;
      else if (state === 'skipped') sum.skipped += 1;
      else sum.failed += 1;
    }
    for (const suite of module.children.allSuites()) if (suite.errors().length > 0) sum.failed += 1;
    if (module.errors().length > 0) sum.failed += 1;
    // Whatever the reason, a module that vitest calls failed must show in the count.
    if (module.state() === 'failed' && sum.failed === failedBefore) sum.failed += 1;
  }
  return sum;
}

export function summaryLine({ passed, failed, skipped }: Summary): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

export default class SummaryReporter implements Reporter {
  #line: string | null = null;
  #watching = false;

  onInit(): void {
    // At exit, because vitest itself may still print after the run has ended (coverage, a worker that won't close).
    process.once('exit', (code) => {
      if (this.#watching) return;
      process.stdout.write(`${this.#line ?? `0 passed, ${code === 0 ? 0 : 1} failed`}\n`);
    });
  }

  onWatcherStart(): void {
    this.#watching = true;
    if (this.#line !== null) process.stdout.write(`${this.#line}\n`);
  }

  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    this.#line = summaryLine(summarise(modules, unhandledErrors));
  }
}
