import { describe, expect, it } from 'vitest';
import { BerthError } from '../../errors.ts';
import type { ChatMessage, ToolSpec } from '../engine.ts';
import { ChatRenderer } from './chat.ts';
import type { TemplateFacts } from './commands.ts';

const facts: TemplateFacts = { chatTemplate: null, bosText: '<s>', eosText: '</s>', addsBos: true };
const chatMl =
  '{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}';
const messages: readonly ChatMessage[] = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Hello' },
];
const tool: ToolSpec = { name: 'clock' };
const chat = (more: { tools?: readonly ToolSpec[]; messages?: readonly ChatMessage[] } = {}) =>
  ({ type: 'chat', messages, tools: [], toolChoice: 'auto', ...more }) as const;

describe('ChatRenderer', () => {
  it('renders the model’s own template and leaves its BOS token to the tokenizer', async () => {
    const renderer = await ChatRenderer.load({ ...facts, chatTemplate: chatMl });
    expect(renderer.render(chat())).toEqual({
      text: '<|system|>Be brief.\n<|user|>Hello\n<|assistant|>',
      addSpecial: true,
      stop: [],
    });
  });

  it('adds no second BOS token where the template writes one', async () => {
    const renderer = await ChatRenderer.load({ ...facts, chatTemplate: `{{ bos_token }}${chatMl}` });
    expect(renderer.render(chat()).addSpecial).toBe(false);
  });

  it('falls back to plain roles for a model without a template, and stops before the next turn', async () => {
    const rendered = (await ChatRenderer.load(facts)).render(chat());
    expect(rendered.text).toBe('System: Be brief.\n\nUser: Hello\n\nAssistant:');
    expect(rendered.stop).toContain('\nUser:');
  });

  it('hands tools to a template that knows them, and writes instructions for one that doesn’t', async () => {
    const knowing = await ChatRenderer.load({
      ...facts,
      chatTemplate: `{% if tools %}{{ tools | tojson }}{% endif %}${chatMl}`,
    });
    expect(knowing.render(chat({ tools: [tool] })).text).toMatch(/^\[\{"type": ?"function"/);
    const other = await ChatRenderer.load({ ...facts, chatTemplate: chatMl });
    expect(other.render(chat({ tools: [tool] })).text).toMatch(/^<\|system\|>Be brief\.\n\nYou may call/);
  });

  it('writes calls and results as text where the template knows no tools', async () => {
    const renderer = await ChatRenderer.load({ ...facts, chatTemplate: chatMl });
    const { text } = renderer.render(
      chat({
        messages: [
          { role: 'assistant', content: '', toolCalls: [{ id: '1', name: 'clock', arguments: '{}' }] },
          { role: 'tool', content: '12:00', toolCallId: '1' },
        ],
      }),
    );
    expect(text).toContain('<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>');
    expect(text).toContain('<|user|><tool_response>\n12:00\n</tool_response>');
  });

  it('says which messages a template refuses', async () => {
    const renderer = await ChatRenderer.load({ ...facts, chatTemplate: "{{ raise_exception('no') }}" });
    expect(() => renderer.render(chat())).toThrow(BerthError);
  });
});
