/** What a command may touch of the process it runs in; tests give their own. */
import type { Readable } from 'node:stream';
import { isatty } from 'node:tty';

export interface Io {
  /** Results: to stdout, as is (end lines yourself). */
  out(text: string): void;
  /** Progress, warnings and errors: to stderr. */
  err(text: string): void;
  readonly stdin: Readable;
  readonly stdinIsTty: boolean;
  readonly stdoutIsTty: boolean;
  readonly stderrIsTty: boolean;
  readonly columns: number;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Calls `handler` for each SIGINT or SIGTERM until the returned function is called. */
  onSignal(handler: () => void): () => void;
  /** Ends the process now. For a second Ctrl-C only: everything else returns. */
  exit(code: number): void;
}

/** Under npm one Ctrl-C arrives twice, from the terminal and from npm: signals so close together come from one key. */
const SAME_KEY_MILLIS = 300;

export function processIo(): Io {
  const { stdin, stdout, stderr } = process;
  // `berth ls | head`: whoever closes the pipe has read enough.
  stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  return {
    out: (text) => void stdout.write(text),
    err: (text) => void stderr.write(text),
    stdin,
    stdinIsTty: isatty(0),
    stdoutIsTty: isatty(1),
    stderrIsTty: isatty(2),
    columns: stdout.columns ?? 120,
    env: process.env,
    cwd: process.cwd(),
    onSignal: (handler) => {
      let lastAt = -Infinity;
      const once = (): void => {
        const now = performance.now();
        if (now - lastAt >= SAME_KEY_MILLIS) handler();
        lastAt = now;
      };
      process.on('SIGINT', once);
      process.on('SIGTERM', once);
      return () => {
        process.off('SIGINT', once);
        process.off('SIGTERM', once);
      };
    },
    exit: (code) => process.exit(code),
  };
}

/** All of stdin as text, at most `mostBytes`; null: there is more. */
export async function readAll(stdin: Readable, mostBytes: number): Promise<string | null> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of stdin) {
    const bytes = Buffer.from(chunk as string | Buffer);
    total += bytes.length;
    if (total > mostBytes) return null;
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString('utf8');
}
