import fc from 'fast-check';
import { expect, test } from 'vitest';
import { tenantId } from '../core/ids.ts';
import type { ChatMessage, PromptInput, ToolSpec } from '../engines/engine.ts';
import { CHAIN_STEPS, HASH_PATTERN, createHasher } from './chain.ts';

const hasher = createHasher(Buffer.alloc(32, 7));
const owner = { tenantId: tenantId('a'), fingerprint: 'model' };
const chat = (messages: readonly ChatMessage[], tools: readonly ToolSpec[] = []): PromptInput => ({
  type: 'chat',
  messages,
  tools,
  toolChoice: 'auto',
});
const stepsOf = (input: PromptInput, whose = owner): readonly string[] => hasher.chainOf(whose, input).steps;
/** Steps that both begin with. */
const shared = (a: readonly string[], b: readonly string[]): number => {
  let depth = 0;
  while (depth < a.length && a[depth] === b[depth]) depth++;
  return depth;
};

const system: ChatMessage = { role: 'system', content: 'Be brief.' };
const question: ChatMessage = { role: 'user', content: 'Why?' };
const answer: ChatMessage = { role: 'assistant', content: 'Because.' };

test('the next turn begins with the whole chain of the one before, an edited one up to the edit', () => {
  const first = stepsOf(chat([system, question]));
  expect(first).toHaveLength(2);
  const next = stepsOf(chat([system, question, answer, question]));
  expect(shared(first, next)).toBe(2);
  expect(shared(next, stepsOf(chat([system, { role: 'user', content: 'Why not?' }, answer])))).toBe(1);
  expect(new Set(next).size).toBe(4);
  for (const step of next) expect(step).toMatch(HASH_PATTERN);
});

test('role, name, tool calls and tools count as the content does', () => {
  const plain = stepsOf(chat([question]));
  const call = { id: '1', name: 'f', arguments: '{}' };
  const others = [
    chat([{ ...question, role: 'system' }]),
    chat([{ ...question, name: 'eve' }]),
    chat([{ ...question, toolCalls: [call] }]),
    chat([{ ...question, toolCallId: '1' }]),
    chat([question], [{ name: 'f' }]),
    { type: 'text', text: question.content } as const,
  ];
  for (const other of others) expect(shared(plain, stepsOf(other))).toBe(0);
});

test('nothing is shared by two tenants, two models, two nodes', () => {
  const input = chat([system, question]);
  const own = stepsOf(input);
  expect(shared(own, stepsOf(input, { ...owner, tenantId: tenantId('b') }))).toBe(0);
  expect(shared(own, stepsOf(input, { ...owner, fingerprint: 'other' }))).toBe(0);
  expect(shared(own, createHasher(Buffer.alloc(32, 8)).chainOf(owner, input).steps)).toBe(0);
  expect(hasher.hintOf(tenantId('a'), 'x')).not.toBe(hasher.hintOf(tenantId('b'), 'x'));
  expect(hasher.folderOf(tenantId('a'))).toMatch(HASH_PATTERN);
});

test('a long document takes several steps, so that its beginning is shared whatever is asked of it', () => {
  const document = 'word '.repeat(2000);
  const one = stepsOf(chat([{ role: 'user', content: `${document}Sum it up.` }]));
  const other = stepsOf(chat([{ role: 'user', content: `${document}Who wrote it?` }]));
  expect(one.length).toBe(10);
  expect(shared(one, other)).toBe(9);
});

test('text goes by 64 characters and then by 512, tokens by 16 and then by 256, exactly counted', () => {
  expect(stepsOf({ type: 'text', text: 'x'.repeat(64 * 64 + 512 + 1) })).toHaveLength(64 + 2);
  const tokens = Array.from({ length: 1_300 }, (_, index) => index);
  const chain = hasher.chainOf(owner, { type: 'tokens', tokens });
  expect(chain.tokens.slice(0, 3)).toEqual([16, 32, 48]);
  expect(chain.tokens.slice(-3)).toEqual([1_024, 1_280, 1_300]);
  expect(shared(chain.steps, stepsOf({ type: 'tokens', tokens: [...tokens, 7] }))).toBe(chain.steps.length - 1);
});

test('a chain has an end, and an empty prompt has none', () => {
  expect(stepsOf(chat(Array.from({ length: 2000 }, () => question)))).toHaveLength(CHAIN_STEPS);
  expect(stepsOf({ type: 'text', text: '' })).toEqual([]);
  expect(stepsOf(chat([{ role: 'user', content: '' }]))).toHaveLength(1);
});

const message = fc.record({
  role: fc.constantFrom('user' as const, 'assistant' as const),
  content: fc.string({ maxLength: 3 }),
});
test('chains share exactly as many steps as the inputs share messages', () => {
  fc.assert(
    fc.property(fc.array(message, { maxLength: 6 }), fc.array(message, { maxLength: 6 }), (a, b) => {
      const same = shared(
        a.map((one) => JSON.stringify(one)),
        b.map((one) => JSON.stringify(one)),
      );
      expect(shared(stepsOf(chat(a)), stepsOf(chat(b)))).toBe(same);
    }),
  );
});
