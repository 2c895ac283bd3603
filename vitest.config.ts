import { defineConfig } from 'vitest/config';

/** Two projects: `unit` needs nothing; `model` needs the two small real models (see scripts/setup.mjs). */
export default defineConfig({
  test: {
    reporters: ['default', './test/summary-reporter.ts'],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'test/**/*.test.ts', 'bench/**/*.test.ts'],
          exclude: ['**/*.model.test.ts', '**/*.gpu.test.ts', '**/node_modules/**'],
          testTimeout: 20_000,
          // Vitest would leave a core free, and most tests wait for processes of theirs.
          maxWorkers: 2,
        },
      },
      {
        test: {
          name: 'model',
          include: ['src/**/*.model.test.ts', 'test/**/*.model.test.ts', 'bench/**/*.model.test.ts'],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // Two cores: engines must not compete with each other, or timings and deadlines mean nothing.
          fileParallelism: false,
        },
      },
    ],
  },
});
