/** One request on the fake engine: what it still has to compute and what it has said. */
import type { Micros } from '../core/ids.ts';
import type { EngineEvent, EngineRequest, EngineSink, GenerateRequest, RequestUsage } from './engine.ts';
import { answerTo, cutStops, embed, promptTokensOf } from './fake-text.ts';
import type { FakeToken } from './fake-text.ts';

export interface FakeSequence {
  readonly request: EngineRequest;
  /** KV cells set aside for it while it runs. */
  readonly kvTokens: number;
  accepted: boolean;
  /** Tokens that must be prefilled before the next one is decoded. */
  prefillLeft: number;
  done: boolean;
  /** Gives the next token to the sink; the sequence may be done after it. */
  decode(): void;
  accept(): void;
  /** Its share of a step's time. */
  charge(prefill: Micros, decode: Micros): void;
  /** All embeddings at once, when the prefill is over. */
  finishEmbedding(): void;
  fail(event: Extract<EngineEvent, { type: 'failed' }>): void;
}

export function createFakeSequence(
  request: EngineRequest,
  sink: EngineSink,
  limits: { readonly contextTokens: number; readonly naturalTokens: number },
): FakeSequence {
  const promptTokens = promptTokensOf(request);
  const resumed = request.kind === 'generate' ? request.resumeTokens.length : 0;
  const wanted = request.kind === 'generate' ? (request.maxTokens ?? limits.contextTokens) : 0;
  const longest = Math.min(wanted, limits.contextTokens - promptTokens);
  let prefillMicros = 0;
  let decodeMicros = 0;
  let outputTokens = resumed;
  const usage = (): RequestUsage => ({
    promptTokens,
    cachedTokens: 0,
    outputTokens,
    prefillMicros: Math.round(prefillMicros),
    decodeMicros: Math.round(decodeMicros),
  });
  const speak = request.kind === 'generate' ? createSpeaker(request, sink, limits.naturalTokens) : null;

  const sequence: FakeSequence = {
    request,
    kvTokens: promptTokens + Math.max(0, longest),
    accepted: false,
    prefillLeft: promptTokens + resumed,
    done: false,
    accept() {
      sequence.accepted = true;
      sink({ type: 'accepted', promptTokens, cachedTokens: 0 });
    },
    decode() {
      if (speak === null) return;
      const end = outputTokens >= longest ? 'length' : speak.next(outputTokens);
      if (end === null || end === 'stopped') outputTokens += 1;
      const reason = end ?? (outputTokens >= longest ? 'length' : null);
      if (reason === null) return;
      sequence.done = true;
      sink({ type: 'finished', reason: speak.end(reason), usage: usage() });
    },
    charge(prefill, decode) {
      prefillMicros += prefill;
      decodeMicros += decode;
    },
    finishEmbedding() {
      if (request.kind !== 'embed') return;
      sequence.done = true;
      sink({ type: 'embedded', vectors: embed(request), usage: usage() });
    },
    fail(event) {
      sequence.done = true;
      sink(event);
    },
  };
  return sequence;
}

/** Turns the tokens of an answer into events: text or a tool call, stop strings cut. */
function createSpeaker(request: GenerateRequest, sink: EngineSink, naturalTokens: number) {
  const answer = answerTo(request, naturalTokens);
  const cutter = cutStops(request.stop);
  let echo = request.echo && request.input.type === 'text' ? request.input.text : '';
  let complete = false;
  return {
    /** Says the token at `index`. 'stop': there was none. 'stopped': it completed a stop string. */
    next(index: number): 'stop' | 'stopped' | null {
      const token = answer.token(index);
      complete = answer.token(index + 1) === null;
      if (token === null) return 'stop';
      const cut = answer.tool === null ? cutter.push(token.text) : { text: '', stopped: false };
      sink({ type: 'tokens', text: echo + cut.text, tokenIds: [token.id], ...logprobsOf(request, token) });
      echo = '';
      return cut.stopped ? 'stopped' : null;
    },
    /** Lets out what was held back, or the tool call; gives the reason to name. */
    end(reason: 'stop' | 'stopped' | 'length'): 'stop' | 'length' | 'tool_calls' {
      if (answer.tool !== null && complete) {
        sink({ type: 'toolCall', index: 0, call: { id: `call_${request.requestId}`, ...answer.tool } });
        return 'tool_calls';
      }
      const rest = cutter.rest();
      if (reason !== 'stopped' && rest !== '') sink({ type: 'tokens', text: rest, tokenIds: [] });
      return reason === 'length' ? 'length' : 'stop';
    },
  };
}

function logprobsOf(request: GenerateRequest, token: FakeToken): Partial<Extract<EngineEvent, { type: 'tokens' }>> {
  if (request.logprobs === null) return {};
  const own = { token: token.text, tokenId: token.id, logprob: -0.1 };
  const others = Array.from({ length: Math.max(0, request.logprobs - 1) }, (_, i) => ({
    token: ` other${i}`,
    tokenId: 2000 + i,
    logprob: -3 - i,
  }));
  return { logprobs: [{ ...own, top: request.logprobs === 0 ? [] : [own, ...others] }] };
}
