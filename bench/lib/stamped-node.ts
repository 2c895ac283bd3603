/**
 * A node for the gateway's benchmark, run as a process of its own: the real node and gateway over a fake engine whose every token
 * is the time at which the engine gave it away (the machine's monotonic clock, which all processes share). Prints its address,
 * and on each line of standard input the CPU time it has used. With a folder as its argument it has the tenants, keys and ledger of
 * the berth.db there.
 */
import { once } from 'node:events';
import type { Engine, EngineSink } from '../../src/engines/engine.ts';
import { createFakeEngine } from '../../src/engines/fake.ts';
import { openTenancy } from '../../src/cli/tenancy.ts';
import { loadConfig } from '../../src/config.ts';
import { listenGateway } from '../../src/gateway/listen.ts';
import { MIB, SECOND, modelId } from '../../src/core/ids.ts';
import { createClock } from '../../src/runtime/clock.ts';
import { createLog } from '../../src/runtime/log.ts';
import { BerthNode } from '../../src/runtime/node.ts';

function stamped(engine: Engine): Engine {
  return {
    ...engine,
    open(launch, observer) {
      const model = engine.open(launch, observer);
      const stamp =
        (sink: EngineSink): EngineSink =>
        (event) =>
          sink(event.type === 'tokens' ? { ...event, text: `${process.hrtime.bigint()} ` } : event);
      return {
        ensureLoaded: () => model.ensureLoaded(),
        ensureAsleep: () => model.ensureAsleep(),
        ensureUnloaded: () => model.ensureUnloaded(),
        slice: (grant) => model.slice(grant),
        endSlice: (sliceId) => model.endSlice(sliceId),
        submit: (request, sink) => model.submit(request, stamp(sink)),
        cancel: (id) => model.cancel(id),
      };
    },
  };
}

// A step of 10 ms whatever is in it: 32 sequences give 3,200 chunks a second.
const engine = stamped(
  createFakeEngine({
    costs: { loadMicros: 1, stepMicros: 10_000, stepMicrosPerSequence: 0, speedup: () => 1, naturalTokens: 1e6 },
  }),
);
const log = createLog('silent');
const node = new BerthNode({
  clock: createClock(),
  log,
  journal: null,
  kv: null,
  version: 'bench',
  operatorDeadlineMicros: 60 * SECOND,
});
await node.configure({
  devices: [
    {
      id: 'cpu',
      name: 'fake',
      device: { memoryBytes: 1 << 30, lanes: 1, overheadBytes: 0 },
      models: [
        {
          id: modelId('stamped'),
          aliases: [],
          engine,
          launch: {
            modelId: modelId('stamped'),
            path: 'stamped',
            contextTokens: 4096,
            kvTokens: 8192,
            parallel: 256,
            batchTokens: 512,
            memoryLimitBytes: 0,
          },
          pinned: true,
          keepAliveMicros: -1,
          ttftGoalMicros: SECOND,
          interTokenGoalMicros: SECOND,
          embedWindowMicros: 3_000,
          source: 'fake',
          createdSeconds: 0,
          fileBytes: MIB,
          digest: null,
          details: {
            format: 'fake',
            architecture: null,
            parameters: null,
            quantization: null,
            trainedContextTokens: null,
            chatTemplate: false,
          },
          fingerprint: '',
        },
      ],
    },
  ],
  order: [modelId('stamped')],
  limits: { queuePerModel: 512, requests: 10_000, queueTimeoutMicros: 60 * SECOND },
  residency: {
    minimumStayMicros: SECOND,
    patienceMicros: SECOND,
    drainMicros: SECOND,
    keepAliveMicros: -1,
    sleepForMicros: -1,
  },
  tenants: [],
});
const [, , home] = process.argv;
const tenancy =
  home === undefined
    ? null
    : openTenancy(loadConfig({ path: null, env: { BERTH_HOME: home } }).config, node, log, () => undefined);
const listening = await listenGateway({
  node,
  host: '127.0.0.1',
  port: 0,
  adminHost: '127.0.0.1',
  adminPort: 0,
  ...(tenancy !== null && { gateway: { auth: tenancy.auth, gate: tenancy.gate, keyed: tenancy.keyed() } }),
});
console.log(listening.url);
process.stdin.on('data', () => {
  const { user, system } = process.cpuUsage();
  console.log(user + system);
});
await once(process.stdin, 'end');
await listening.close(100);
await node.close(0);
tenancy?.close();
