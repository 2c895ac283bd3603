import { describe, expect, it } from 'vitest';
import { type Advisor, mappedFiles, newFiles, parseMaps, populatePages, releasePages } from './pages.ts';

const MAPS = [
  '555555554000-555555558000 r--p 00000000 fe:00 131 /usr/bin/node',
  '7f0000000000-7f0000200000 r--s 00001000 fe:00 4711 /models/a model.gguf',
  '7f0000400000-7f0000500000 rw-s 00000000 fe:00 4712 /models/written.bin',
  '7f0000500000-7f0000600000 r--p 00000000 fe:00 4711 /models/a model.gguf',
  '7f0000600000-7f0000700000 r--s 00000000 00:01 0 /dev/zero (deleted)',
  '7f0000700000-7f0000800000 rw-p 00000000 00:00 0 ',
  '7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]',
  '',
].join('\n');

describe('the model’s pages', () => {
  it('are those of files that nothing can be written through, and no others', () => {
    expect(parseMaps(MAPS)).toEqual([{ address: 0x7f0000000000n, bytes: 0x200000, path: '/models/a model.gguf' }]);
  });

  it('are of the files that came with the model', () => {
    const [model] = parseMaps(MAPS);
    expect(model).toBeDefined();
    if (model === undefined) return;
    const other = { ...model, path: '/usr/share/locale' };
    expect([...newFiles([other], [other, model, model])]).toEqual([model.path]);
    expect(newFiles([model], [model]).size).toBe(0);
  });

  it('are left alone where there are none', () => {
    const advisor: Advisor = {
      advise: () => {
        throw new Error('called');
      },
    };
    for (const files of [new Set<string>(), new Set(['/no/such/model.gguf'])]) {
      expect(releasePages(advisor, files)).toBe(0);
      populatePages(advisor, files);
    }
    expect(mappedFiles().every(({ bytes }) => bytes > 0)).toBe(true);
  });
});
