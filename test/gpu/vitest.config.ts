import { defineConfig } from 'vitest/config';

/** Tests that need a GPU, and the server that they are about (docs/engines.md). No other run includes them. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['src/**/*.gpu.test.ts'],
    reporters: ['verbose'],
    testTimeout: 900_000,
    hookTimeout: 900_000,
    fileParallelism: false,
  },
});
