import { defineConfig } from 'vitest/config';

/** The real vLLM: see scripts/vllm-setup.mjs, which installs it, makes the model and runs these. */
export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/vllm/*.vllm.ts'],
    reporters: ['verbose'],
    // A start takes half a minute on two cores.
    testTimeout: 240_000,
    hookTimeout: 240_000,
    fileParallelism: false,
  },
});
