/** `berth run MODEL [PROMPT]`: one prompt, one answer. The prompt may come through a pipe; on a terminal without one, a chat. */
import { styleText } from 'node:util';
import { BerthError } from '../../errors.ts';
import type { ModelView } from '../../runtime/api.ts';
import { adminClient, PATIENT_MS, publicClient } from '../client.ts';
import { bodyOf, endpoint, generate } from '../generate.ts';
import type { Ended, Generation, Listener } from '../generate.ts';
import type { Io } from '../io.ts';
import { readAll } from '../io.ts';
import { humanDuration, json } from '../output.ts';
import { samplingFields } from '../sampling.ts';
import type { SamplingOptions } from '../sampling.ts';

const MOST_STDIN_BYTES = 16 * 1024 * 1024;

export async function runPrompt(
  io: Io,
  model: string,
  words: readonly string[],
  options: SamplingOptions,
): Promise<void> {
  const piped = io.stdinIsTty ? '' : await readAll(io.stdin, MOST_STDIN_BYTES);
  if (piped === null)
    throw new BerthError('body_too_large', `the prompt on stdin is larger than ${MOST_STDIN_BYTES} bytes`);
  // `berth run m "Summarise:" < file`: the argument says what to do with what is piped.
  const prompt = [words.join(' '), piped.trimEnd()].filter((part) => part !== '').join('\n\n');
  if (prompt === '') {
    if (io.stdinIsTty) return (await import('./chat.ts')).chat(io, model, options);
    throw new BerthError('invalid_request', 'the prompt is empty: give one as an argument or through a pipe');
  }
  const raw = options.raw === true || (options.system === undefined && !(await hasChatTemplate(io, model, options)));
  const system = options.system === undefined ? [] : [{ role: 'system', content: options.system } as const];
  const generation: Generation = {
    model,
    input: raw ? prompt : [...system, { role: 'user', content: prompt }],
    fields: samplingFields(options),
  };
  const client = publicClient(options, io.env);
  if (options.json === true) {
    const answer = await client.json(endpoint(generation), { body: bodyOf(generation), deadlineMs: PATIENT_MS });
    return io.out(json(answer));
  }
  const ended = await generate(client, generation, terminalListener(io));
  if (!ended.text.endsWith('\n')) io.out('\n');
  if (options.verbose === true) io.err(`${statistics(ended)}\n`);
}

/**
 * Does the model have a chat template? A base model has none and continues text instead. Only the admin API knows; where it
 * can't be reached, the usual is assumed and the node will say if it is wrong.
 */
export async function hasChatTemplate(io: Io, model: string, options: SamplingOptions): Promise<boolean> {
  // A node that was named by --url may have its admin API anywhere, and another node's answer would mislead.
  if (options.url !== undefined || io.env['BERTH_URL'] !== undefined) return true;
  try {
    const view = await adminClient(options, io.env).json(`/api/admin/models/${encodeURIComponent(model)}`, {
      deadlineMs: 2_000,
    });
    return (view as ModelView).details.chatTemplate;
  } catch {
    return true;
  }
}

/** Text to stdout as it comes; on a terminal, what is waited for on a line that goes away. */
export function terminalListener(io: Io): Listener {
  let shown = false;
  return {
    text: (text) => io.out(text),
    waits: (words) => {
      if (!io.stderrIsTty) return;
      if (words !== null) io.err(`\r\u001b[K${styleText('dim', `${words}…`, { validateStream: false })}`);
      else if (shown) io.err('\r\u001b[K');
      shown = words !== null;
    },
  };
}

/** “31 prompt tokens, 120 generated, 54 tokens/s; queue 0 ms, load 120 ms, …”. */
export function statistics({ usage, berth, finishReason }: Ended): string {
  const parts: string[] = [];
  if (usage !== null) parts.push(`${usage.prompt_tokens} prompt tokens`, `${usage.completion_tokens} generated`);
  const total = berth?.['total_ms'];
  const first = berth?.['ttft_ms'];
  if (usage !== null && total !== undefined && first !== undefined && total > first && usage.completion_tokens > 1) {
    parts.push(`${((usage.completion_tokens - 1) / ((total - first) / 1e3)).toFixed(1)} tokens/s`);
  }
  const names = { queue_ms: 'queue', load_ms: 'load', ttft_ms: 'first token', total_ms: 'total' };
  for (const [key, name] of Object.entries(names)) {
    const ms = berth?.[key];
    if (ms !== undefined) parts.push(`${name} ${humanDuration(ms * 1e3)}`);
  }
  if (finishReason !== null) parts.push(`ended by ${finishReason}`);
  return parts.join(', ');
}
