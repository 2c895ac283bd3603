/** Brings the two small models of defaults.json into `$BERTH_HOME/models`. scripts/setup.mjs runs it; it prints to stderr. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { asBerthError } from '../errors.ts';
import type { PullProgress } from './progress.ts';
import { pull } from './pull.ts';

interface DefaultModel {
  readonly name: string;
  readonly source: string;
  readonly sha256: string;
}

const LINE_EVERY_MILLIS = 15_000;
const MEGABYTE = 1_000_000;

function describe({ phase, receivedBytes, totalBytes, item }: PullProgress): string {
  const received = Math.round(receivedBytes / MEGABYTE);
  const bytes =
    receivedBytes === 0
      ? ''
      : ` ${received}${totalBytes === null ? '' : ` of ${Math.round(totalBytes / MEGABYTE)}`} MB`;
  return `${phase}${item === undefined ? '' : ` ${item}`}${bytes}`;
}

/** One moving line in a terminal; elsewhere a line when the phase changes, and four a minute. */
function reporter(name: string): (progress: PullProgress) => void {
  const terminal = process.stderr.isTTY;
  let shown = 0;
  let stage = '';
  return (progress) => {
    const now = `${progress.phase} ${progress.item ?? ''}`;
    const changed = now !== stage;
    if (progress.phase === 'resolving' || (!changed && Date.now() - shown < (terminal ? 100 : LINE_EVERY_MILLIS)))
      return;
    stage = now;
    shown = Date.now();
    const text = `Model ${name}: ${describe(progress)}`;
    process.stderr.write(terminal ? `\r\u001b[K${text}${progress.phase === 'done' ? '\n' : ''}` : `${text}\n`);
  };
}

const home = process.env['BERTH_HOME'] || path.join(import.meta.dirname, '..', '..', '.berth');
const models = JSON.parse(
  await readFile(path.join(import.meta.dirname, 'defaults.json'), 'utf8'),
) as readonly DefaultModel[];
const control = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => control.abort());

for (const { name, source, sha256 } of models) {
  try {
    await pull(source, {
      modelsDir: path.join(home, 'models'),
      downloadsDir: path.join(home, 'downloads'),
      name,
      sha256,
      signal: control.signal,
      onProgress: reporter(name),
    });
  } catch (error) {
    const { code, message } = asBerthError(error);
    process.stderr.write(`${process.stderr.isTTY ? '\n' : ''}Model ${name}: ${message} (${code})\n`);
    process.exitCode = 1;
    break;
  }
}
