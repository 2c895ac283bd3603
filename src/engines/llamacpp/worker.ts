/**
 * The one thread of a runner that calls llama.cpp. It never returns to its event loop: it drains its commands between steps,
 * and while it has nothing to compute it sleeps on a shared counter that the main thread raises with each command.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { asBerthError } from '../../errors.ts';
import type { ModelLaunch } from '../engine.ts';
import { type Llama, openLlama } from './binding.ts';
import type { FromWorker, ToWorker, WorkerSetup } from './commands.ts';
import { nowMicros } from './common.ts';
import { Loop } from './loop.ts';
import { freeModel, loadModel, type Model } from './model.ts';
import { populatePages, releasePages } from './pages.ts';

/** The counter wakes us; this bound is a belt besides the braces. */
const WAIT_LIMIT_MILLIS = 1000;

class Host {
  readonly #send: (message: FromWorker) => void;
  readonly #llama: Llama;
  #model: { readonly path: string; readonly model: Model } | null = null;
  /** What a model that has just been loaded or woken still needs before its first step is a fast one; done while nothing else is to do. */
  #chores: (() => void)[] = [];
  #loop: { readonly launch: string; readonly loop: Loop } | null = null;

  constructor(send: (message: FromWorker) => void, llama: Llama) {
    this.#send = send;
    this.#llama = llama;
  }

  get runnable(): boolean {
    return this.#loop?.loop.runnable === true;
  }

  /** Does one thing ahead; false if there was none. */
  prepare(): boolean {
    const chore = this.#chores.shift();
    chore?.();
    return chore !== undefined;
  }

  step(): void {
    this.#loop?.loop.step();
  }

  handle(command: ToWorker): void {
    switch (command.type) {
      case 'load':
        this.#load(command.launch);
        break;
      case 'sleep':
        this.#sleep();
        break;
      case 'submit':
        if (this.#loop !== null) this.#loop.loop.submit(command.job);
        else this.#refuse(command.job.requestId);
        break;
      case 'cancel':
        this.#loop?.loop.cancel(command.requestId, command.keep);
        break;
      case 'grantKv':
        this.#loop?.loop.grantKv(command.grant);
        break;
      case 'dropKv':
        this.#loop?.loop.dropKv(command.entryId);
        break;
      case 'slice':
        if (this.#loop !== null) this.#loop.loop.openSlice(command.grant);
        else this.#emptySlice(command.grant.sliceId, command.grant.lanes);
        break;
      case 'endSlice':
        this.#loop?.loop.endSlice(command.sliceId);
        break;
    }
  }

  #load(launch: ModelLaunch): void {
    const started = nowMicros();
    try {
      if (this.#model !== null && this.#model.path !== launch.path) this.#unload();
      const from = this.#model === null ? 'cold' : 'asleep';
      this.#model ??= {
        path: launch.path,
        model: loadModel(this.#llama, launch.path, {
          repack: process.env['BERTH_LLAMA_REPACK'] !== '0',
          elastic: process.env['BERTH_LLAMA_ELASTIC'] !== '0',
        }),
      };
      const modelAt = nowMicros();
      const { model } = this.#model;
      const key = JSON.stringify(launch);
      if (this.#loop !== null && this.#loop.launch !== key) this.#disposeLoop();
      this.#loop ??= { launch: key, loop: this.#makeLoop(model, launch) };
      const { loop } = this.#loop;
      this.#chores = [() => void loop.prepare()];
      if (from === 'asleep') this.#chores.push(() => populatePages(this.#llama, model.mappedFiles));
      const { chatTemplate, bosText, eosText, addsBos, mappedWeightBytes } = model;
      this.#send({
        type: 'loaded',
        from,
        micros: nowMicros() - started,
        mappedWeightBytes,
        growthBytes: loop.growthBytes,
        phases: { model: modelAt - started, context: nowMicros() - modelAt },
        template: { chatTemplate, bosText, eosText, addsBos },
      });
    } catch (thrown) {
      this.#unload();
      const error = asBerthError(thrown);
      this.#send({ type: 'loadFailed', code: error.code, message: error.message });
    }
  }

  #makeLoop(model: Model, launch: ModelLaunch): Loop {
    return new Loop(model, launch, {
      prefillBudgetTokens: launch.batchTokens,
      onEvents: (items) => this.#send({ type: 'events', items }),
      onSliceEnd: (report) => this.#send({ type: 'sliceEnded', report }),
      onGrowth: (growthBytes) => this.#send({ type: 'grew', growthBytes }),
      onKv: (event) => this.#send({ type: 'kv', event }),
    });
  }

  #disposeLoop(): void {
    this.#chores = [];
    this.#loop?.loop.dispose();
    this.#loop = null;
  }

  #sleep(): void {
    const started = nowMicros();
    this.#disposeLoop();
    this.#llama.trim();
    if (this.#model !== null) releasePages(this.#llama, this.#model.model.mappedFiles);
    this.#send({ type: 'asleep', micros: nowMicros() - started });
  }

  #unload(): void {
    this.#disposeLoop();
    if (this.#model !== null) freeModel(this.#model.model);
    this.#model = null;
    this.#llama.trim();
  }

  #refuse(requestId: Extract<ToWorker, { type: 'cancel' }>['requestId']): void {
    this.#send({
      type: 'events',
      items: [[requestId, { type: 'failed', code: 'model_stopped', message: 'The model is not loaded.' }]],
    });
  }

  #emptySlice(sliceId: number, lanes: number): void {
    this.#send({
      type: 'sliceEnded',
      report: {
        sliceId,
        lanes,
        ended: 'idle',
        steps: 0,
        prefillTokens: 0,
        decodeTokens: {},
        wallMicros: 0,
        computeMicros: 0,
        requestMicros: {},
        pending: 0,
      },
    });
  }
}

function main(): void {
  const port = parentPort;
  if (port === null) throw new Error('worker.ts is a worker thread’s script');
  const send = (message: FromWorker): void => port.postMessage(message);
  let llama: Llama;
  try {
    llama = openLlama();
  } catch (thrown) {
    const error = asBerthError(thrown);
    send({ type: 'fatal', code: error.code === 'internal' ? 'engine_mismatch' : error.code, message: error.message });
    return;
  }
  send({ type: 'started', engineVersion: llama.version });
  const host = new Host(send, llama);
  const bell = new Int32Array((workerData as WorkerSetup).bell);
  for (;;) {
    const rung = Atomics.load(bell, 0);
    for (let received = receiveMessageOnPort(port); received !== undefined; received = receiveMessageOnPort(port)) {
      host.handle(received.message as ToWorker);
    }
    if (host.runnable) host.step();
    else if (host.prepare()) continue;
    else Atomics.wait(bell, 0, rung, WAIT_LIMIT_MILLIS);
  }
}

main();
