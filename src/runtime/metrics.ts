/**
 * Prometheus metrics. Names and buckets are vLLM's where there is one, so that existing dashboards work; ours begin with `berth_`.
 * Labels are models, never tenants (cardinality) and never text.
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Micros } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import type { KvStats } from '../kv/cache.ts';
import { createKvMetrics } from './kv-metrics.ts';

const TTFT_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const TOKEN_BUCKETS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const LATENCY_BUCKETS = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];

const seconds = (micros: Micros): number => micros / SECOND;

export interface ModelGauge {
  readonly model: string;
  readonly state: string;
  readonly running: number;
  readonly waiting: number;
  readonly chargedBytes: number;
  /** Left out: there is only one. */
  readonly device?: string;
}

export interface DeviceGauge {
  /** null: there is only one. */
  readonly device: string | null;
  readonly memoryBytes: number;
  readonly heldBytes: number;
}

export interface Metrics {
  finished(
    model: string,
    reason: string,
    seen: { promptTokens: number; cachedTokens: number; outputTokens: number },
  ): void;
  latencies(
    model: string,
    seen: { ttftMicros: Micros; totalMicros: Micros; queueMicros: Micros; outputTokens: number },
  ): void;
  refused(model: string, code: string): void;
  failed(model: string, code: string): void;
  moved(model: string, to: 'device' | 'host' | 'disk', micros: Micros): void;
  /** `device` null: there is only one. */
  slice(model: string, lanes: number, computeMicros: Micros, device: string | null): void;
  preempted(model: string): void;
  /** The text, with the gauges as they are now. */
  text(models: readonly ModelGauge[], devices: readonly DeviceGauge[], kv: KvStats | null): Promise<string>;
}

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const counter = (name: string, help: string, labelNames: string[]): Counter =>
    new Counter({ name, help, labelNames, registers });
  const gauge = (name: string, help: string, labelNames: string[]): Gauge =>
    new Gauge({ name, help, labelNames, registers });
  const histogram = (name: string, help: string, buckets: number[]): Histogram =>
    new Histogram({ name, help, buckets, labelNames: ['model_name'], registers });

  const promptTokens = counter('vllm:prompt_tokens_total', 'Prompt tokens processed', ['model_name']);
  const outputTokens = counter('vllm:generation_tokens_total', 'Tokens generated', ['model_name']);
  const cachedTokens = counter('vllm:prompt_tokens_cached_total', 'Prompt tokens whose KV was at hand', ['model_name']);
  const success = counter('vllm:request_success_total', 'Requests finished', ['model_name', 'finished_reason']);
  const preemptions = counter('vllm:num_preemptions_total', 'Requests preempted', ['model_name']);
  const ttft = histogram('vllm:time_to_first_token_seconds', 'From arrival to the first token', TTFT_BUCKETS);
  const interToken = histogram(
    'vllm:inter_token_latency_seconds',
    'Mean time between tokens of a request',
    TOKEN_BUCKETS,
  );
  const endToEnd = histogram('vllm:e2e_request_latency_seconds', 'From arrival to the end', LATENCY_BUCKETS);
  const queue = histogram(
    'vllm:request_queue_time_seconds',
    'From arrival to the start on the engine',
    LATENCY_BUCKETS,
  );
  const running = gauge('vllm:num_requests_running', 'Requests on the engine', ['model_name']);
  const waiting = gauge('vllm:num_requests_waiting', 'Requests waiting', ['model_name']);
  const refusals = counter('berth_admission_rejected_total', 'Requests refused', ['model', 'reason']);
  const failures = counter('berth_request_failed_total', 'Requests that ended in an error', ['model', 'reason']);
  const moves = counter('berth_switches_total', 'Moves of a model between device, host and disk', ['model', 'to']);
  const moveSeconds = counter('berth_switch_seconds_total', 'Time spent in these moves', ['model', 'to']);
  const deviceSeconds = counter('berth_device_seconds_total', 'Lane-seconds computed', ['model', 'device']);
  const state = gauge('berth_model_state', '1 for the state that the model is in', ['model', 'state']);
  const resident = gauge('berth_resident_bytes', 'Bytes charged to the model', ['model', 'device']);
  const budget = gauge('berth_memory_budget_bytes', 'The device memory that Berth may use', ['device']);
  const held = gauge('berth_memory_held_bytes', 'Reserved or used by models', ['device']);

  const showKv = createKvMetrics(registry);
  // A node with one device has no need of the label.
  const on = (device: string | null): { device?: string } => (device === null ? {} : { device });

  return {
    finished(model, reason, seen) {
      promptTokens.inc({ model_name: model }, seen.promptTokens);
      outputTokens.inc({ model_name: model }, seen.outputTokens);
      cachedTokens.inc({ model_name: model }, seen.cachedTokens);
      success.inc({ model_name: model, finished_reason: reason });
    },
    latencies(model, seen) {
      const labels = { model_name: model };
      ttft.observe(labels, seconds(seen.ttftMicros));
      endToEnd.observe(labels, seconds(seen.totalMicros));
      queue.observe(labels, seconds(seen.queueMicros));
      if (seen.outputTokens > 1)
        interToken.observe(labels, seconds(seen.totalMicros - seen.ttftMicros) / (seen.outputTokens - 1));
    },
    refused: (model, reason) => refusals.inc({ model, reason }),
    failed: (model, reason) => failures.inc({ model, reason }),
    moved(model, to, micros) {
      moves.inc({ model, to });
      moveSeconds.inc({ model, to }, seconds(micros));
    },
    slice: (model, lanes, computeMicros, device) =>
      deviceSeconds.inc({ model, ...on(device) }, seconds(computeMicros) * lanes),
    preempted: (model) => preemptions.inc({ model_name: model }),
    async text(models, devices, kv) {
      for (const each of [running, waiting, state, resident]) each.reset();
      for (const model of models) {
        running.set({ model_name: model.model }, model.running);
        waiting.set({ model_name: model.model }, model.waiting);
        state.set({ model: model.model, state: model.state }, 1);
        resident.set({ model: model.model, ...on(model.device ?? null) }, model.chargedBytes);
      }
      for (const { device, memoryBytes, heldBytes } of devices) {
        budget.set(on(device), memoryBytes);
        held.set(on(device), heldBytes);
      }
      if (kv !== null) showKv(kv);
      return registry.metrics();
    },
  };
}
