/** What the fake engine says: words that depend on the prompt and on nothing else, and values of JSON schemas. */
import type { EmbedRequest, EngineRequest, GenerateRequest, PromptInput } from './engine.ts';

export interface FakeToken {
  readonly id: number;
  readonly text: string;
}

/** All that a request will be answered with. */
export interface FakeAnswer {
  readonly promptTokens: number;
  /** null after the natural end. The same index gives the same token, so a resumed request goes on where it was. */
  token(index: number): FakeToken | null;
  /** The tool that the tokens are the arguments of; their text is not shown. */
  readonly tool: { readonly name: string; readonly arguments: string } | null;
}

const WORDS =
  'berth ship tide harbour crane rope deck quay pilot anchor keel sail mast dock wave cargo bridge lock light bell ' +
  'north wind star chart crew hold bow stern gull fog shore sand';
const VOCABULARY: readonly string[] = WORDS.split(' ');
const EMBEDDING_DIMENSIONS = 64;

/** FNV-1a, 32 bits. */
function hash(text: string, seed = 0x811c9dc5): number {
  let value = seed;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/** The finaliser of MurmurHash3: spreads an index over all bits. */
function mix(value: number): number {
  let x = value;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

const countWords = (text: string): number => text.split(/\s+/).filter((word) => word !== '').length;

/** A prompt as one text, and its tokens: a word is one, a message costs one more, as a template's marks would. */
function readPrompt(input: PromptInput): { readonly text: string; readonly tokens: number } {
  if (input.type === 'tokens') return { text: input.tokens.join(' '), tokens: input.tokens.length };
  if (input.type === 'text') return { text: input.text, tokens: countWords(input.text) };
  const text = input.messages.map((message) => `${message.role}: ${message.content}`).join('\n');
  return { text, tokens: countWords(text) };
}

/** A small value that the schema allows, for the common part of JSON schema; `text` fills its strings. */
function instanceOf(schema: unknown, text: string): unknown {
  if (typeof schema !== 'object' || schema === null) return text;
  const of = new Map<string, unknown>(Object.entries(schema));
  const choices = of.get('enum');
  if (of.has('const')) return of.get('const');
  if (Array.isArray(choices)) return choices[0];
  switch (of.get('type')) {
    case 'object':
      return Object.fromEntries(
        Object.entries(of.get('properties') ?? {}).map(([name, value]) => [name, instanceOf(value, text)]),
      );
    case 'array':
      return [instanceOf(of.get('items'), text)];
    case 'integer':
    case 'number':
      return 7;
    case 'boolean':
      return true;
    case 'null':
      return null;
    default:
      return text;
  }
}

/** @param naturalTokens after how many words a free text ends by itself */
export function answerTo(request: GenerateRequest, naturalTokens: number): FakeAnswer {
  const prompt = readPrompt(request.input);
  const { temperature, seed } = request.sampling;
  const start = hash(prompt.text, temperature > 0 ? mix((seed ?? 0) + 1) : undefined);
  const word = (index: number): FakeToken => {
    const id = mix(start + index) % VOCABULARY.length;
    return { id, text: `${index === 0 ? '' : ' '}${VOCABULARY[id]}` };
  };
  const tool = toolFor(request);
  const sentence = `${word(0).text}${word(1).text}${word(2).text}`;
  let value: unknown;
  if (tool !== null) value = instanceOf(tool.parameters ?? { type: 'object' }, sentence);
  else if (request.format.type === 'json_schema') value = instanceOf(request.format.schema, sentence);
  else if (request.format.type === 'json_object') value = { text: sentence };
  if (value === undefined) {
    const end = request.ignoreEos ? Infinity : naturalTokens;
    return { promptTokens: prompt.tokens, tool: null, token: (i) => (i < end ? word(i) : null) };
  }
  const json = JSON.stringify(value);
  const pieces = json.match(/[^ ,:]+[ ,:]?|[ ,:]/g) ?? [];
  return {
    promptTokens: prompt.tokens,
    tool: tool === null ? null : { name: tool.name, arguments: json },
    token(index) {
      const text = pieces[index];
      return text === undefined ? null : { id: VOCABULARY.length + (hash(text) % 1000), text };
    },
  };
}

/** The fake calls a tool when it must, and never otherwise. */
function toolFor(request: GenerateRequest) {
  if (request.input.type !== 'chat') return null;
  const { tools, toolChoice } = request.input;
  if (toolChoice === 'required') return tools[0] ?? null;
  return typeof toolChoice === 'object' ? (tools.find((tool) => tool.name === toolChoice.name) ?? null) : null;
}

/** Unit vectors; equal texts have equal ones. */
export function embed(request: EmbedRequest): Float32Array[] {
  return request.inputs.map((input) => {
    const start = hash(typeof input === 'string' ? input : input.join(' '));
    const vector = Float32Array.from({ length: EMBEDDING_DIMENSIONS }, (_, i) => mix(start + i) / 2 ** 31 - 1);
    const length = Math.hypot(...vector);
    return vector.map((x) => x / length);
  });
}

export function promptTokensOf(request: EngineRequest): number {
  if (request.kind === 'generate') return readPrompt(request.input).tokens;
  return request.inputs.reduce((sum, input) => sum + (typeof input === 'string' ? countWords(input) : input.length), 0);
}

export interface StopCutter {
  /** What may be shown now; `stopped` when a stop string was found, which is cut. */
  push(text: string): { readonly text: string; readonly stopped: boolean };
  /** What was held back for a stop string that did not come. */
  rest(): string;
}

/** Holds text back while it may be the start of a stop string. */
export function cutStops(stops: readonly string[]): StopCutter {
  let held = '';
  return {
    push(text) {
      if (stops.length === 0) return { text, stopped: false };
      held += text;
      const found = stops.map((stop) => held.indexOf(stop)).filter((at) => at >= 0);
      if (found.length > 0) {
        const shown = held.slice(0, Math.min(...found));
        held = '';
        return { text: shown, stopped: true };
      }
      let keep = 0;
      for (const stop of stops) {
        for (let n = Math.min(stop.length - 1, held.length); n > keep; n--)
          if (stop.startsWith(held.slice(-n))) keep = n;
      }
      const shown = held.slice(0, held.length - keep);
      held = held.slice(held.length - keep);
      return { text: shown, stopped: false };
    },
    rest: () => held,
  };
}
