/** POST /v1/chat/completions. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { parse } from './errors.ts';
import { chatLogprobs } from './logprobs.ts';
import { chatSubmissions } from './params.ts';
import type { ChunkWriter, Desk } from './respond.ts';
import { callerOf, collect, startRun, stream, timeHeaders } from './respond.ts';
import type { Head, StreamOptions } from './chunks.ts';
import { checkStreamOptions, chunkFrame, fingerprintOf, headOf, streamOptionsOf } from './chunks.ts';
import { berthField, usageField } from './run.ts';
import { chatSchema } from './schema.ts';
import type { TokenLogprob } from './types.ts';

interface ChatOptions extends StreamOptions {
  /** `parallel_tool_calls: false`: the first call only. */
  readonly oneCall: boolean;
}

const toolCallField = (event: { index: number; call: { id: string; name: string; arguments: string } }) => ({
  id: event.call.id,
  type: 'function' as const,
  function: { name: event.call.name, arguments: event.call.arguments },
});

const choiceOf = (index: number, delta: string, logprobs: string, finish: string | null): string =>
  `{"index":${index},"delta":{${delta}},"logprobs":${logprobs},"finish_reason":${finish === null ? 'null' : `"${finish}"`}}`;

function chatWriter(head: Head, options: ChatOptions): ChunkWriter {
  const frame = chunkFrame({ ...head, object: 'chat.completion.chunk' }, options);
  const started = new Set<number>();
  const called = new Set<number>();
  /** The role goes with the first chunk of each choice. */
  const role = (index: number): string => {
    if (started.has(index)) return '';
    started.add(index);
    return '"role":"assistant",';
  };
  return {
    tokens(index, event) {
      const logprobs = event.logprobs ?? [];
      if (event.text === '' && logprobs.length === 0) return null;
      const delta = `${role(index)}"content":${JSON.stringify(event.text)}`;
      return frame.chunk(
        choiceOf(index, delta, logprobs.length > 0 ? JSON.stringify(chatLogprobs(logprobs)) : 'null', null),
      );
    },
    toolCall(index, event) {
      if (options.oneCall && called.has(index)) return null;
      called.add(index);
      const call = JSON.stringify({ index: event.index, ...toolCallField(event) });
      const first = role(index);
      return frame.chunk(
        choiceOf(index, `${first}${first === '' ? '' : '"content":null,'}"tool_calls":[${call}]`, 'null', null),
      );
    },
    finished(index, event) {
      // A model that said nothing still has a role.
      const delta = started.has(index) ? '' : `${role(index)}"content":""`;
      return frame.finish(choiceOf(index, delta, 'null', event.reason));
    },
    last: (totals) => frame.last(totals),
    soFar: options.soFar,
  };
}

class ChatChoice {
  text = '';
  finish = 'stop';
  readonly calls: ReturnType<typeof toolCallField>[] = [];
  readonly logprobs: TokenLogprob[] = [];

  message() {
    const content = this.text === '' && this.calls.length > 0 ? null : this.text;
    return { role: 'assistant', content, refusal: null, ...(this.calls.length > 0 ? { tool_calls: this.calls } : {}) };
  }
}

export function chatHandler(desk: Desk) {
  const { limits } = desk;
  const fingerprint = fingerprintOf(desk.node);
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const body = parse(chatSchema, request.body);
    checkStreamOptions(body);
    const caller = callerOf(request);
    const count = body.n ?? 1;
    const run = startRun(desk, request, reply, chatSubmissions(body, caller), count);
    const head = headOf('chatcmpl', caller, run, fingerprint);
    const oneCall = body.parallel_tool_calls === false;
    if (body.stream === true) {
      await stream(run, reply, limits, chatWriter(head, { ...streamOptionsOf(body, count), oneCall }));
      return reply;
    }
    const choices = Array.from({ length: count }, () => new ChatChoice());
    const totals = await collect(run, (index, event) => {
      const choice = choices[index] as ChatChoice;
      if (event.type === 'tokens') {
        choice.text += event.text;
        if (event.logprobs !== undefined) choice.logprobs.push(...event.logprobs);
      } else if (event.type === 'toolCall') {
        if (!oneCall || choice.calls.length === 0) choice.calls.push(toolCallField(event));
      } else if (event.type === 'finished') choice.finish = event.reason;
    });
    timeHeaders(request, reply, totals);
    return {
      id: head.id,
      object: 'chat.completion',
      created: head.created,
      model: totals.modelId,
      system_fingerprint: fingerprint,
      choices: choices.map((choice, index) => ({
        index,
        message: choice.message(),
        logprobs: body.logprobs === true ? chatLogprobs(choice.logprobs) : null,
        finish_reason: choice.finish,
      })),
      usage: usageField(totals),
      berth: berthField(totals),
    };
  };
}
