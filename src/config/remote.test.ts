import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config.ts';
import { BerthError } from '../errors.ts';
import { parseConfig } from './parse.ts';
import { remote } from './remote.ts';

describe('a model that is computed elsewhere', () => {
  it('needs an address, and may have a name there, a key and a time', () => {
    const [model] = parseConfig(
      'models:\n  big:\n    remote: {url: "https://inference.example/v1", model: x, keyEnv: BIG_KEY, timeout: 2m}\n',
      'berth.yaml',
    ).models;
    expect(model?.values.remote).toEqual({
      url: 'https://inference.example/v1',
      model: 'x',
      keyEnv: 'BIG_KEY',
      keyFile: null,
      timeout: 120_000_000,
    });
  });

  it.each([
    ['no address', { model: 'x' }],
    ['an address that is none', { url: 'inference.example' }],
    ['another protocol', { url: 'file:///etc/passwd' }],
    ['a key in the address', { url: 'https://me:secret@inference.example/v1' }],
    ['a key behind the address', { url: 'https://inference.example/v1?key=secret' }],
    ['two places for the key', { url: 'https://inference.example/v1', keyEnv: 'A', keyFile: 'a' }],
    ['a key itself', { url: 'https://inference.example/v1', keyEnv: 'sk-123' }],
  ])('is refused with %s', (_, value) => expect(remote.read(value, 'file')).toBeUndefined());

  it.each([
    ['has a file here', 'source: ./x.gguf\n    remote: {url: "https://a.example/v1"}', /big.source: .* no file here/],
    ['has another engine', 'engine: vllm\n    remote: {url: "https://a.example/v1"}', /big.remote: .* engine vllm/],
    ['has no address', 'engine: remote', /big.engine: .* needs `remote/],
  ])('can’t be one that %s', (_, lines, message) => {
    expect(() => parseConfig(`models:\n  big:\n    ${lines}\n`, 'berth.yaml')).toThrow(message);
  });

  it('shows no key in an error', () => {
    try {
      parseConfig('models:\n  big:\n    remote: {url: "https://me:secret@a.example"}\n', 'berth.yaml');
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(BerthError);
      expect((error as Error).message).not.toContain('secret');
    }
  });

  it('is no model of a configuration that names none', () => {
    expect(loadConfig({ path: null, env: {} }).config.models).toEqual([]);
  });
});
