/** Starts a server as a child and waits until it computes. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Micros, ModelId } from '../core/ids.ts';
import { MILLI, SECOND } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { ModelLaunch } from './engine.ts';
import type { HttpClient } from './http-client.ts';
import { createHttpClient, HttpFailure } from './http-client.ts';
import type { HttpDialect, ServerCommand } from './http-dialect.ts';
import type { Child, ChildExit, Supervisor } from './supervisor.ts';
import type { Timer } from './timer.ts';

export interface HttpServer {
  readonly child: Child;
  readonly client: HttpClient;
}

export interface StartOptions {
  readonly dialect: HttpDialect;
  readonly supervisor: Supervisor;
  readonly timer: Timer;
  readonly niceness: number;
  /** From the spawn until it has computed a token. */
  readonly loadMicros: Micros;
  readonly log: (model: ModelId, line: string) => void;
}

export interface StartHooks {
  /** False once nobody waits for it any more: nothing is started then. */
  readonly wanted: () => boolean;
  readonly onServer: (server: HttpServer) => void;
  readonly onExit: (exit: ChildExit) => void;
  readonly onHeard: () => void;
}

const POLL_MICROS = 20 * MILLI;
/** The port was free when it was looked for; somebody else may have taken it since. */
const PORT_TRIES = 3;
const PORT_TAKEN = /could ?n[o’']t bind|failed to bind|error.*\bbind(?:ing)?\b|address already in use|EADDRINUSE/i;

/**
 * Resolves when the server has computed a token. Rejects with `model_load_failed` after the deadline, or with what the canary said;
 * when the process ends before, `onExit` is all that is heard.
 */
export async function startServer(launch: ModelLaunch, hooks: StartHooks, options: StartOptions): Promise<HttpServer> {
  const { dialect, supervisor, timer, niceness, loadMicros, log } = options;
  const deadline = timer.now() + loadMicros;
  for (let tries = 1; ; tries++) {
    // `mkdtemp` makes it for this user only (0700): whoever can't enter it can't reach the sockets in it.
    const folder = await mkdtemp(join(tmpdir(), 'berth-'));
    const discard = (): void => void rm(folder, { recursive: true, force: true }).catch(() => {});
    const onSocket = dialect.listensOn === 'socket' && process.platform !== 'win32';
    const socketPath = onSocket ? join(folder, 'http') : null;
    const port = socketPath === null ? await freePort() : 0;
    const apiKey = randomBytes(24).toString('hex');
    let command: ServerCommand;
    try {
      command = await dialect.command(launch, { port, folder, socketPath, apiKey });
      if (!hooks.wanted()) throw new BerthError('model_stopped', 'Nobody waits for the model any more.');
    } catch (error) {
      discard();
      throw error;
    }
    let portTaken = false;
    let isUp = false;
    const child = supervisor.spawn({
      ...endsWithNode(command),
      name: dialect.name,
      ipc: false,
      niceness,
      isGroup: dialect.isManyProcesses === true,
      onLine: (line) => log(launch.modelId, line),
      onExit(exit) {
        discard();
        // What listened once has a port, whatever it printed.
        portTaken = !isUp && socketPath === null && PORT_TAKEN.test(child.lines().join('\n'));
        if (!portTaken || tries >= PORT_TRIES) hooks.onExit(exit);
      },
    });
    const address = socketPath === null ? { port } : { socketPath };
    const server = { child, client: createHttpClient(address, apiKey, hooks.onHeard) };
    hooks.onServer(server);
    if (await isReady(server, deadline, options)) {
      isUp = true;
      await hasToken(launch, server, deadline, options);
      return server;
    }
    if (!portTaken || tries >= PORT_TRIES) throw new BerthError('model_load_failed', `${dialect.name} ended.`);
  }
}

/** False when it has ended. */
async function isReady({ child, client }: HttpServer, deadline: Micros, options: StartOptions): Promise<boolean> {
  const { dialect, timer, loadMicros } = options;
  while (child.exit() === null) {
    if (timer.now() >= deadline) {
      const seconds = Math.round(loadMicros / SECOND);
      throw new BerthError(
        'model_load_failed',
        `${dialect.name} was not ready within ${seconds} s: raise \`limits.loadTimeout\` if its file is large or on a slow disk.`,
      );
    }
    try {
      await client.ask(dialect.readyPath, null, { deadlineMicros: SECOND });
      return true;
    } catch (error) {
      // Refused while it starts, 503 while it loads.
      if (error instanceof HttpFailure && error.status !== 503) throw dialect.explain(error);
    }
    await new Promise<void>((resolve) => {
      timer.after(POLL_MICROS, resolve);
    });
  }
  return false;
}

/** Resolves when it has computed a token. Rejects as `startServer`. */
export async function hasToken(
  launch: ModelLaunch,
  { client }: HttpServer,
  deadline: Micros,
  { dialect, timer }: Pick<StartOptions, 'dialect' | 'timer'>,
): Promise<void> {
  const late = new AbortController();
  const cancel = timer.after(Math.max(deadline - timer.now(), SECOND), () => late.abort());
  try {
    const quiet = { emit: () => {}, prefilled: () => {}, decoded: () => {} };
    await dialect.canary({ client, launch, signal: late.signal, ...quiet });
  } catch (thrown) {
    if (!late.signal.aborted) throw dialect.explain(thrown);
    throw new BerthError('model_load_failed', `${dialect.name} says that it is ready, but computed no token in time.`);
  } finally {
    cancel();
  }
}

/**
 * A node that is killed can't stop its servers, and they do not notice by themselves: the kernel does it, where `setpriv(1)` of
 * util-linux can ask it to (`PR_SET_PDEATHSIG`). It replaces itself by the server, which keeps the process id.
 */
function endsWithNode(command: ServerCommand): ServerCommand {
  const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));
  if (setpriv === undefined) return command;
  return { ...command, command: setpriv, args: ['--pdeathsig', 'KILL', '--', command.command, ...command.args] };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new BerthError('engine_error', 'There is no free port.');
  return address.port;
}
