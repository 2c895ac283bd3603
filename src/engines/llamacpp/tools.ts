/** Tool calls: how they are asked for where the template doesn't, how they are forced, and how they are found in the output. */
import { randomBytes } from 'node:crypto';
import { BerthError } from '../../errors.ts';
import type { GenerateRequest, ToolCall, ToolChoice, ToolSpec } from '../engine.ts';
import { jsonObjectGbnf, schemaToGbnf } from './grammar.ts';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';

/** For templates that know no tools. The form is that of the Hermes function-calling models, which many others have learned. */
export function toolInstructions(tools: readonly ToolSpec[]): string {
  const listed = tools.map(({ name, description, parameters }) =>
    JSON.stringify({
      name,
      ...(description === undefined ? {} : { description }),
      parameters: parameters ?? { type: 'object', properties: {} },
    }),
  );
  return [
    'You may call these functions:',
    ...listed,
    'To call one, answer with a JSON object inside of these tags, and nothing else:',
    `${OPEN}\n{"name": "function name", "arguments": {…}}\n${CLOSE}`,
  ].join('\n');
}

/** The grammar of one call of one of the tools, or of the named one; null: the choice is the model's. Throws as `schemaToGbnf`. */
export function toolGrammar(tools: readonly ToolSpec[], choice: ToolChoice): string | null {
  if (choice === 'auto' || choice === 'none' || tools.length === 0) return null;
  const chosen = choice === 'required' ? tools : tools.filter((tool) => tool.name === choice.name);
  if (chosen.length === 0) {
    throw new BerthError('invalid_request', 'tool_choice names a tool that isn’t among the tools.', {
      param: 'tool_choice',
    });
  }
  const anyOf = chosen.map(({ name, parameters }) => ({
    type: 'object',
    properties: { name: { const: name }, arguments: { type: 'object', ...parameters } },
    required: ['name', 'arguments'],
    additionalProperties: false,
  }));
  // References in a tool's parameters are local to them.
  const $defs = Object.assign({}, ...chosen.map((tool) => tool.parameters?.['$defs'] ?? {})) as Record<string, unknown>;
  const definitions = Object.assign({}, ...chosen.map((tool) => tool.parameters?.['definitions'] ?? {})) as Record<
    string,
    unknown
  >;
  return schemaToGbnf({ anyOf, $defs, definitions }, `${OPEN}\n`, `\n${CLOSE}`);
}

/** The grammar that a request's output must follow, or null. Throws as `schemaToGbnf`: the way to check a request beforehand. */
export function grammarOf({ input, format }: Pick<GenerateRequest, 'input' | 'format'>): string | null {
  const forced = input.type === 'chat' ? toolGrammar(input.tools, input.toolChoice) : null;
  if (forced !== null) return forced;
  if (format.type === 'json_schema') return schemaToGbnf(format.schema);
  return format.type === 'json_object' ? jsonObjectGbnf() : null;
}

interface ToolOutput {
  /** Text that is no tool call. */
  readonly text: string;
  readonly calls: readonly ToolCall[];
}

/**
 * Finds tool calls in streamed text: between tags, or as a bare JSON object that is the whole answer. Text is held back only
 * while it may belong to one.
 */
export class ToolCallParser {
  readonly #names: ReadonlySet<string>;
  #state: 'start' | 'text' | 'call' | 'bare' = 'start';
  #buffer = '';

  constructor(tools: readonly ToolSpec[]) {
    this.#names = new Set(tools.map((tool) => tool.name));
  }

  push(text: string): ToolOutput {
    this.#buffer += text;
    return this.#advance(false);
  }

  end(): ToolOutput {
    return this.#advance(true);
  }

  #advance(last: boolean): ToolOutput {
    let text = '';
    const calls: ToolCall[] = [];
    for (;;) {
      if (this.#state === 'start') {
        const trimmed = this.#buffer.trimStart();
        if (trimmed === '' && !last) break;
        this.#state = trimmed.startsWith('{') ? 'bare' : 'text';
      }
      if (this.#state === 'bare') {
        if (!last && mayBeCall(this.#buffer)) break;
        const call = last ? this.#parse(this.#buffer) : null;
        if (call !== null) {
          calls.push(call);
          this.#buffer = '';
          break;
        }
        this.#state = 'text';
      }
      if (this.#state === 'call') {
        const close = this.#buffer.indexOf(CLOSE);
        if (close < 0 && !last) break;
        const body = close < 0 ? this.#buffer : this.#buffer.slice(0, close);
        const call = this.#parse(body);
        if (call === null) text += OPEN + body + (close < 0 ? '' : CLOSE);
        else calls.push(call);
        // White space around calls belongs to them.
        this.#buffer = close < 0 ? '' : this.#buffer.slice(close + CLOSE.length);
        this.#state = call === null ? 'text' : 'start';
        if (this.#buffer === '') break;
        continue;
      }
      const open = this.#buffer.indexOf(OPEN);
      if (open >= 0) {
        text += this.#buffer.slice(0, open).trimEnd();
        this.#buffer = this.#buffer.slice(open + OPEN.length);
        this.#state = 'call';
        continue;
      }
      const kept = last ? 0 : heldBack(this.#buffer);
      text += this.#buffer.slice(0, this.#buffer.length - kept);
      this.#buffer = this.#buffer.slice(this.#buffer.length - kept);
      break;
    }
    return { text, calls };
  }

  #parse(body: string): ToolCall | null {
    let parsed: unknown;
    try {
      parsed = JSON.parse(body);
    } catch {
      return null;
    }
    if (typeof parsed !== 'object' || parsed === null) return null;
    const { name, arguments: given, parameters } = parsed as Record<string, unknown>;
    if (typeof name !== 'string' || !this.#names.has(name)) return null;
    const value = given ?? parameters ?? {};
    return {
      id: `call_${randomBytes(12).toString('hex')}`,
      name,
      arguments: typeof value === 'string' ? value : JSON.stringify(value),
    };
  }
}

/** Could the text, so far, begin an object whose first key is "name"? */
function mayBeCall(text: string): boolean {
  const head = '{"name":';
  const squeezed = text.replaceAll(/\s+/g, '');
  return squeezed.startsWith(head) || head.startsWith(squeezed);
}

/** Length of the end of `text` that may begin a tag, with the white space before it. */
function heldBack(text: string): number {
  let length = Math.min(OPEN.length - 1, text.length);
  while (length > 0 && !text.endsWith(OPEN.slice(0, length))) length -= 1;
  const before = text.slice(0, text.length - length);
  return length + (before.length - before.trimEnd().length);
}
