/** A whole node on the fake engine, with virtual time: what its tests and the gateway's have in common. */
import { DEFAULT_TENANT, MIB, SECOND, modelId } from '../../src/core/ids.ts';
import type { FakeCosts, FakeEngine } from '../../src/engines/fake.ts';
import { createFakeEngine } from '../../src/engines/fake.ts';
import type { GenerateRequest } from '../../src/engines/engine.ts';
import type { StreamEvent, Submission, SubmissionHandle } from '../../src/runtime/api.ts';
import type { HostedSpec } from '../../src/runtime/hosted.ts';
import type { Journal } from '../../src/runtime/journal.ts';
import { createLog } from '../../src/runtime/log.ts';
import type { NodeConfiguration } from '../../src/runtime/node.ts';
import { BerthNode } from '../../src/runtime/node.ts';
import { request } from '../contract/stories.ts';
import type { VirtualTimer } from '../virtual-timer.ts';
import { createVirtualTimer } from '../virtual-timer.ts';

export interface FakeNode {
  readonly node: BerthNode;
  readonly timer: VirtualTimer;
  readonly engine: FakeEngine;
  readonly configuration: NodeConfiguration;
  readonly ask: (model: string, options?: Asked) => Conversation;
}

export interface Asked {
  readonly prompt?: string;
  readonly maxTokens?: number;
  readonly id?: string;
  readonly keepAliveMicros?: number;
}

export interface Conversation {
  readonly handle: SubmissionHandle;
  readonly events: StreamEvent[];
  readonly text: () => string;
  readonly last: () => StreamEvent | undefined;
}

export function fakeSpec(engine: FakeEngine, id: string, extra: Partial<HostedSpec> = {}): HostedSpec {
  return {
    id: modelId(id),
    aliases: [],
    engine,
    launch: {
      modelId: modelId(id),
      path: `${id}.gguf`,
      contextTokens: 2048,
      kvTokens: 4096,
      parallel: 4,
      batchTokens: 512,
      memoryLimitBytes: 0,
    },
    pinned: false,
    keepAliveMicros: null,
    ttftGoalMicros: 2 * SECOND,
    interTokenGoalMicros: 200_000,
    embedWindowMicros: 3_000,
    source: 'fake',
    createdSeconds: 0,
    fileBytes: 100 * MIB,
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
    ...extra,
  };
}

let asked = 0;

export function generate(
  id: string,
  { prompt = 'hello there', maxTokens = 8 }: Asked = {},
): Omit<GenerateRequest, 'resumeTokens'> {
  return request(id, { input: { type: 'text', text: prompt }, maxTokens });
}

export function submission(model: string, options: Asked = {}): Submission {
  return {
    model,
    tenantId: DEFAULT_TENANT,
    keyId: null,
    request: generate(options.id ?? `r${++asked}`, options),
    priority: 'interactive',
    ttftGoalMicros: null,
    interTokenGoalMicros: null,
    keepAliveMicros: options.keepAliveMicros ?? null,
    conversation: null,
  };
}

export interface FakeDevice {
  readonly id: string;
  readonly lanes?: number;
  /** Room for so many models of the usual size. */
  readonly fit: number;
  readonly models: readonly string[];
}

/** What a model of the usual size takes: about 250 MiB. */
const MODEL_BYTES = 251 * MIB;

const RESIDENCY = {
  minimumStayMicros: SECOND,
  patienceMicros: 2 * SECOND,
  drainMicros: SECOND,
  keepAliveMicros: -1,
  sleepForMicros: -1,
};

/** A node of several devices, each with a fake engine of its own. */
export async function fakeDevices(
  wanted: readonly FakeDevice[],
  options: { journal?: Journal; costs?: Partial<FakeCosts>; requests?: number; extra?: Partial<HostedSpec> } = {},
): Promise<Omit<FakeNode, 'engine'> & { readonly engines: ReadonlyMap<string, FakeEngine> }> {
  const { journal = null, costs = {}, requests = 1000, extra = {} } = options;
  const timer = createVirtualTimer();
  const node = openNode(timer, journal);
  const engines = new Map(wanted.map(({ id }) => [id, createFakeEngine({ timer, costs })]));
  const configuration: NodeConfiguration = {
    devices: wanted.map(({ id, lanes = 1, fit, models }) => ({
      id,
      name: 'fake',
      device: { memoryBytes: fit * MODEL_BYTES, lanes, overheadBytes: 0 },
      models: models.map((model) => fakeSpec(engines.get(id) as FakeEngine, model, extra)),
    })),
    order: [...new Set(wanted.flatMap(({ models }) => models))].toSorted().map(modelId),
    limits: { queuePerModel: 16, requests, queueTimeoutMicros: 300 * SECOND },
    residency: RESIDENCY,
    tenants: [],
  };
  await node.configure(configuration);
  return { node, timer, engines, configuration, ask: asking(node) };
}

const openNode = (timer: VirtualTimer, journal: Journal | null): BerthNode =>
  new BerthNode({
    clock: timer,
    log: createLog('silent'),
    journal,
    kv: null,
    version: '0.0.0',
    operatorDeadlineMicros: 600 * SECOND,
  });

const asking =
  (node: BerthNode): FakeNode['ask'] =>
  (model, options = {}) => {
    const events: StreamEvent[] = [];
    const handle = node.submit(submission(model, options), (event) => events.push(event));
    return {
      handle,
      events,
      text: () => events.flatMap((event) => (event.type === 'tokens' ? [event.text] : [])).join(''),
      last: () => events.at(-1),
    };
  };

/** A node with models `m1` … of about 250 MiB each, and room for `fit` of them. */
export async function fakeNode(
  options: { models?: number; fit?: number; lanes?: number; costs?: Partial<FakeCosts>; journal?: Journal } = {},
): Promise<FakeNode> {
  const { models = 2, fit = models, lanes = 2, costs = {}, journal = null } = options;
  const timer = createVirtualTimer();
  const engine = createFakeEngine({ timer, costs });
  const node = openNode(timer, journal);
  const names = Array.from({ length: models }, (_, index) => `m${index + 1}`);
  const configuration: NodeConfiguration = {
    devices: [
      {
        id: 'cpu',
        name: 'fake',
        device: { memoryBytes: fit * MODEL_BYTES + 71 * MIB * (models - fit), lanes, overheadBytes: 0 },
        models: names.map((name) => fakeSpec(engine, name)),
      },
    ],
    order: names.map(modelId),
    limits: { queuePerModel: 16, requests: 1000, queueTimeoutMicros: 300 * SECOND },
    residency: RESIDENCY,
    tenants: [],
  };
  await node.configure(configuration);
  return { node, timer, engine, configuration, ask: asking(node) };
}
