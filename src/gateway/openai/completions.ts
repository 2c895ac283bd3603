/** POST /v1/completions: text in, text out, without a chat template. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Head, StreamOptions } from './chunks.ts';
import { checkStreamOptions, chunkFrame, fingerprintOf, headOf, streamOptionsOf } from './chunks.ts';
import { parse } from './errors.ts';
import { textLogprobs } from './logprobs.ts';
import { completionSubmissions } from './params.ts';
import type { ChunkWriter, Desk } from './respond.ts';
import { callerOf, collect, startRun, stream, timeHeaders } from './respond.ts';
import { berthField, usageField } from './run.ts';
import { completionSchema } from './schema.ts';
import type { TokenLogprob } from './types.ts';

const choiceOf = (index: number, text: string, logprobs: string, finish: string | null): string =>
  `{"index":${index},"text":${JSON.stringify(text)},"logprobs":${logprobs},"finish_reason":${finish === null ? 'null' : `"${finish}"`}}`;

function textWriter(head: Head, options: StreamOptions): ChunkWriter {
  const frame = chunkFrame({ ...head, object: 'text_completion' }, options);
  /** Characters sent so far, by choice: `text_offset` counts them. */
  const sent: number[] = [];
  return {
    tokens(index, event) {
      const list = event.logprobs ?? [];
      if (event.text === '' && list.length === 0) return null;
      const offset = sent[index] ?? 0;
      sent[index] = offset + event.text.length;
      const logprobs = list.length > 0 ? JSON.stringify(textLogprobs(list, offset)) : 'null';
      return frame.chunk(choiceOf(index, event.text, logprobs, null));
    },
    toolCall: () => null,
    finished: (index, event) => frame.finish(choiceOf(index, '', 'null', event.reason)),
    last: (totals) => frame.last(totals),
    soFar: options.soFar,
  };
}

class TextChoice {
  text = '';
  finish = 'stop';
  readonly logprobs: TokenLogprob[] = [];
}

export function completionHandler(desk: Desk) {
  const { limits } = desk;
  const fingerprint = fingerprintOf(desk.node);
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const body = parse(completionSchema, request.body);
    checkStreamOptions(body);
    const caller = callerOf(request);
    const submissions = completionSubmissions(body, caller);
    const count = submissions.length;
    const run = startRun(desk, request, reply, submissions, body.n ?? 1);
    const head = headOf('cmpl', caller, run, fingerprint);
    if (body.stream === true) {
      await stream(run, reply, limits, textWriter(head, streamOptionsOf(body, count)));
      return reply;
    }
    const choices = Array.from({ length: count }, () => new TextChoice());
    const totals = await collect(run, (index, event) => {
      const choice = choices[index] as TextChoice;
      if (event.type === 'tokens') {
        choice.text += event.text;
        if (event.logprobs !== undefined) choice.logprobs.push(...event.logprobs);
      } else if (event.type === 'finished') choice.finish = event.reason;
    });
    timeHeaders(request, reply, totals);
    return {
      id: head.id,
      object: 'text_completion',
      created: head.created,
      model: totals.modelId,
      system_fingerprint: fingerprint,
      choices: choices.map((choice, index) => ({
        index,
        text: choice.text,
        logprobs: body.logprobs === undefined ? null : textLogprobs(choice.logprobs, 0),
        finish_reason: choice.finish,
      })),
      usage: usageField(totals),
      berth: berthField(totals),
    };
  };
}
