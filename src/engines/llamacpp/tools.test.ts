import { describe, expect, it } from 'vitest';
import type { ToolCall, ToolSpec } from '../engine.ts';
import { Gbnf } from './gbnf-recogniser.ts';
import { grammarOf, ToolCallParser, toolGrammar, toolInstructions } from './tools.ts';

const tools: readonly ToolSpec[] = [
  {
    name: 'weather',
    description: 'Weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
  { name: 'clock' },
];

/** The output that results however the text is cut into tokens of `size` characters. */
function parse(text: string, size: number): { text: string; calls: Omit<ToolCall, 'id'>[] } {
  const parser = new ToolCallParser(tools);
  let out = '';
  const calls: ToolCall[] = [];
  for (let at = 0; at < text.length; at += size) {
    const part = parser.push(text.slice(at, at + size));
    out += part.text;
    calls.push(...part.calls);
  }
  const end = parser.end();
  return {
    text: out + end.text,
    calls: [...calls, ...end.calls].map(({ name, arguments: given }) => ({ name, arguments: given })),
  };
}

describe.each([1, 3, 1000])('ToolCallParser, %i characters at a time', (size) => {
  it('takes tagged calls out of the text', () => {
    const text =
      'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n<tool_call>{"name":"clock","arguments":{}}</tool_call>';
    expect(parse(text, size)).toEqual({
      text: 'Let me look.',
      calls: [
        { name: 'weather', arguments: '{"city":"Oslo"}' },
        { name: 'clock', arguments: '{}' },
      ],
    });
  });

  it('takes a bare call for one', () => {
    expect(parse('{"name": "clock", "arguments": {}}', size)).toEqual({
      text: '',
      calls: [{ name: 'clock', arguments: '{}' }],
    });
  });

  it.each([
    'A plain answer with < and <tool and { in it.',
    '{"answer": 42}',
    '{"name": "unknown", "arguments": {}}',
    '<tool_call>not json</tool_call> and on',
    '<tool_call>{"name": "clock", "argu',
    '  indented text\n\n',
  ])('leaves %j as it is', (text) => {
    expect(parse(text, size)).toEqual({ text, calls: [] });
  });
});

describe('toolGrammar', () => {
  it('forces a call of one of the tools, or of the named one', () => {
    const any = new Gbnf(toolGrammar(tools, 'required') as string);
    const named = new Gbnf(toolGrammar(tools, { name: 'weather' }) as string);
    const clock = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>';
    expect(any.matches(clock)).toBe(true);
    expect(named.matches(clock)).toBe(false);
    expect(named.matches('<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>')).toBe(true);
    expect(named.matches('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>')).toBe(false);
  });

  it('refuses a choice that isn’t among the tools', () => {
    expect(() => toolGrammar(tools, { name: 'sundial' })).toThrow(
      expect.objectContaining({ code: 'invalid_request', param: 'tool_choice' }),
    );
  });

  it('follows the references within a tool’s parameters', () => {
    const parameters = {
      properties: { at: { $ref: '#/$defs/city' } },
      required: ['at'],
      $defs: { city: { enum: ['Oslo'] } },
    };
    const grammar = new Gbnf(toolGrammar([{ name: 'go', parameters }], 'required') as string);
    expect(grammar.matches('<tool_call>\n{"name": "go", "arguments": {"at": "Oslo"}}\n</tool_call>')).toBe(true);
  });

  it('leaves the choice to the model otherwise', () => {
    expect(toolGrammar(tools, 'auto')).toBeNull();
    expect(toolGrammar(tools, 'none')).toBeNull();
  });
});

it('toolInstructions names every tool', () => {
  for (const tool of tools) expect(toolInstructions(tools)).toContain(`"name":"${tool.name}"`);
});

it('grammarOf: a forced tool goes before the format, free text has none', () => {
  const input = { type: 'chat', messages: [], tools, toolChoice: 'auto' } as const;
  expect(grammarOf({ input, format: { type: 'text' } })).toBeNull();
  expect(grammarOf({ input, format: { type: 'json_object' } })).toContain('root ::= ');
  expect(grammarOf({ input: { ...input, toolChoice: 'required' }, format: { type: 'json_object' } })).toContain(
    '<tool_call>',
  );
});
