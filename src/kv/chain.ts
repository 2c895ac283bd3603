/**
 * Under which names a conversation's KV is found: a chain of keyed hashes over its input. Step n stands for everything up to it, so
 * the longest common beginning of two inputs is the longest common beginning of their chains. The names say nothing of the text to
 * whoever lacks the node's secret (HMAC, RFC 2104, with SHA-256), and none is shared by two tenants, two models or two tool lists.
 */
import { createHmac } from 'node:crypto';
import type { TenantId } from '../core/ids.ts';
import type { ChatMessage, PromptInput } from '../engines/engine.ts';

/** A longer content takes several steps, so that long documents share their beginnings. */
const MESSAGE_CHARACTERS = 1_024;
/** A prompt that is no chat is cut by length: finely at its beginning, since the next turn of a short one has to be told from others. */
const TEXT_CHARACTERS = { fine: 64, coarse: 512 };
const TOKENS = { fine: 16, coarse: 256 };
const FINE_STEPS = 64;
/** Of the longest chain: it goes into the file's head, and each step into the index. What lies beyond is told apart by recency. */
export const CHAIN_STEPS = 512;
/** 96 bits would do against chance; 16 bytes are what a UUID has. */
const HASH_BYTES = 16;
/** English text has about four characters a token; a message's frame takes some tokens too. Only for guessing what a match is worth. */
const CHARACTERS_PER_TOKEN = 4;
const FRAME_TOKENS = 4;

export interface Chain {
  readonly steps: readonly string[];
  /** Tokens up to and including each step: exact for token prompts, guessed for text. */
  readonly tokens: readonly number[];
}

export interface ChainOwner {
  readonly tenantId: TenantId;
  /** Of the model's file and launch. */
  readonly fingerprint: string;
}

export interface Hasher {
  chainOf(owner: ChainOwner, input: PromptInput): Chain;
  /** A client's name of its conversation, as the node remembers it. */
  hintOf(tenantId: TenantId, hint: string): string;
  /** The folder of the tenant's files. */
  folderOf(tenantId: TenantId): string;
}

/** A hash's text: 22 characters of base64url. */
export const HASH_PATTERN = /^[\w-]{22}$/;

/** `secret`: of this node, at least 16 bytes. */
export function createHasher(secret: Uint8Array): Hasher {
  // As JSON, which keeps parts apart and writes lone surrogates out: two different inputs never have the same bytes.
  const hash = (...parts: readonly unknown[]): string =>
    createHmac('sha256', secret).update(JSON.stringify(parts)).digest().subarray(0, HASH_BYTES).toString('base64url');

  return {
    chainOf({ tenantId, fingerprint }, input) {
      const steps: string[] = [];
      const tokens: number[] = [];
      const tools = input.type === 'chat' ? input.tools : [];
      let last = hash('chain', tenantId, fingerprint, input.type, tools);
      let total = input.type === 'chat' ? Math.ceil(JSON.stringify(tools).length / CHARACTERS_PER_TOKEN) : 0;
      for (const { step, tokens: its } of pieces(input)) {
        last = hash(last, step);
        total += its;
        steps.push(last);
        tokens.push(total);
        if (steps.length === CHAIN_STEPS) break;
      }
      return { steps, tokens };
    },
    hintOf: (tenantId, hint) => hash('hint', tenantId, hint),
    folderOf: (tenantId) => hash('folder', tenantId),
  };
}

interface Piece {
  readonly step: unknown;
  readonly tokens: number;
}

function* pieces(input: PromptInput): Generator<Piece> {
  if (input.type === 'chat') {
    for (const message of input.messages) yield* messagePieces(message);
  } else if (input.type === 'text') {
    for (const text of cutFinely(input.text, TEXT_CHARACTERS)) yield { step: text, tokens: guessTokens(text) };
  } else {
    for (const tokens of cutFinely(input.tokens, TOKENS)) yield { step: tokens, tokens: tokens.length };
  }
}

function* messagePieces({ role, content, name, toolCalls, toolCallId }: ChatMessage): Generator<Piece> {
  // What stands around the content belongs to its last piece: beginnings of a long content are shared whatever follows.
  const parts = content === '' ? [''] : [...cut(content, MESSAGE_CHARACTERS)];
  for (const [index, text] of parts.entries()) {
    const isLast = index === parts.length - 1;
    const around = isLast ? [name ?? null, toolCalls ?? [], toolCallId ?? null] : null;
    const calls = isLast && toolCalls !== undefined ? guessTokens(JSON.stringify(toolCalls)) : 0;
    yield { step: [role, text, around], tokens: guessTokens(text) + calls + FRAME_TOKENS };
  }
}

function* cut<Sliced extends string | readonly number[]>(whole: Sliced, length: number): Generator<Sliced> {
  for (let at = 0; at < whole.length; at += length) yield whole.slice(at, at + length) as Sliced;
}

/** The first `FINE_STEPS` pieces are fine ones. */
function* cutFinely<Sliced extends string | readonly number[]>(
  whole: Sliced,
  { fine, coarse }: { readonly fine: number; readonly coarse: number },
): Generator<Sliced> {
  const end = FINE_STEPS * fine;
  yield* cut(whole.slice(0, end) as Sliced, fine);
  yield* cut(whole.slice(end) as Sliced, coarse);
}

const guessTokens = (text: string): number => Math.ceil(text.length / CHARACTERS_PER_TOKEN);
