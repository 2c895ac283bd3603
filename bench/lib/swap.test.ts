import { expect, it } from 'vitest';
import { swapConfig } from './swap.ts';

it('has as many groups as there is room for, the most popular models in different ones', () => {
  const names = Array.from({ length: 7 }, (_, index) => `m${index + 1}`);
  const config = swapConfig({
    binary: 'llama-swap',
    llamaServer: 'llama-server',
    modelsDir: 'models',
    names,
    modelsMax: 3,
    threads: 1,
    contextTokens: 4096,
    parallel: 4,
  });
  expect(config).toMatchObject({
    models: { m1: { cmd: expect.stringMatching(/--port \$\{PORT\} --model models\/m1\.gguf --threads 1 /) as string } },
    groups: {
      g1: { swap: true, exclusive: false, members: ['m1', 'm4', 'm7'] },
      g2: { members: ['m2', 'm5'] },
      g3: { members: ['m3', 'm6'] },
    },
  });
});
