import { expect, test } from 'vitest';
import { KNOWN_PEERS, readPeers } from './peers.ts';

test('each program that is compared with, or computes, can be named', () => {
  expect(Object.keys(KNOWN_PEERS)).toEqual(['llama-server', 'llama-swap', 'vllm', 'aiperf', 'guidellm']);
  expect(readPeers(['llama-server=../a=b/llama-server', 'vllm=vllm'])).toEqual({
    'llama-server': '../a=b/llama-server',
    vllm: 'vllm',
  });
  expect(readPeers([])).toEqual({});
});

test.each([
  ['lama-server=x', /"lama-server"\. Did you mean llama-server\? Known are llama-server, llama-swap, vllm, /],
  ['ollama=x', /"ollama"\..* Known are /],
  ['constructor=x', /"constructor"\. Known are /],
  ['llama-server', /wants NAME=PATH/],
  ['=x', /wants NAME=PATH/],
  ['vllm=', /wants NAME=PATH/],
])('%s is refused', (text, message) => expect(() => readPeers([text])).toThrow(message));
