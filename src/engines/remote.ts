/**
 * A model that is computed elsewhere, by any server of the OpenAI kind: it takes no memory and no lanes of this device, so it runs
 * outside of slices. Its own limits are how many requests are sent at once (`parallel`) and how long it may say nothing. Token ids are
 * not told by such servers, so an answer that breaks off has failed: it can't be gone on from.
 */
import { Agent } from 'node:http';
import { Agent as SecureAgent } from 'node:https';
import type { Bytes, Micros } from '../core/ids.ts';
import { MINUTE } from '../core/ids.ts';
import type { Engine, ModelLaunch } from './engine.ts';
import { createHttpClient } from './http-client.ts';
import { createRemoteModel } from './remote-model.ts';
import { runRemote } from './remote-wire.ts';

export interface RemoteOptions {
  /** What the addresses of its endpoints begin with, such as `https://inference.example/v1`. */
  readonly url: string;
  /** Its name there; null: its name here. */
  readonly model: string | null;
  /** Asked for each request, so that a key can be changed; null: it is sent none. Rejects where it can't be had. */
  readonly key?: () => Promise<string | null>;
  /** How long it may say nothing, before its first word and between two; left out: five minutes. */
  readonly timeoutMicros?: Micros;
}

/** Buffers of its connections, in the node: a name in the books rather than a size. */
const REMOTE_BYTES: Bytes = 65_536;
const IDLE_SOCKET_MILLIS = 30_000;

export function createRemoteEngine(options: RemoteOptions): Engine {
  const { model, key = () => Promise.resolve(null), timeoutMicros = 5 * MINUTE } = options;
  const url = new URL(options.url);
  const sockets = { keepAlive: true, timeout: IDLE_SOCKET_MILLIS };
  const agent = url.protocol === 'https:' ? new SecureAgent(sockets) : new Agent(sockets);
  const nameOf = (launch: ModelLaunch): string => model ?? launch.modelId;
  const models = new Set<ReturnType<typeof createRemoteModel>>();
  return {
    name: 'remote',
    overheadBytes: 0,
    capabilities: {
      preempts: 'never',
      sleeps: false,
      exportsKv: false,
      saltsPrefixCache: false,
      adjustableLanes: false,
      embeds: true,
      logprobs: true,
    },
    open(launch, observer) {
      const opened = createRemoteModel({
        launch,
        observer,
        bytes: REMOTE_BYTES,
        async run(request, wire) {
          const client = createHttpClient({ url, agent }, await key(), wire.heard);
          await runRemote(request, nameOf(launch), { client, launch, ...wire });
        },
        timeoutMicros,
      });
      models.add(opened);
      return opened;
    },
    check(request) {
      if (request.kind === 'embed' || request.input.type !== 'tokens' || request.input.tokens.length > 0) return null;
      return { code: 'invalid_request', message: 'The prompt is empty.', param: 'prompt' };
    },
    estimate: () => Promise.resolve({ loadedBytes: REMOTE_BYTES, asleepBytes: 1 }),
    async close() {
      await Promise.allSettled([...models].map((opened) => opened.ensureUnloaded()));
      agent.destroy();
    },
  };
}
