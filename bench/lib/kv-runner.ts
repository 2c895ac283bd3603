/**
 * One runner without a node, whose steps have the same shape in every run: whole chunks of 64 tokens, whatever they take. What a
 * conversation has left on the device can be pushed out of it, saved by a sleep, or carried over to another process.
 */
import { join } from 'node:path';
import { kvEntryId, requestId, tenantId } from '../../src/core/ids.ts';
import type { GenerateRequest, KvFile, KvPlan, TokenLogprob } from '../../src/engines/engine.ts';
import { launchOf, RunnerHarness, textRequest } from '../../src/engines/llamacpp/runner-harness.ts';

/** A runner's first step, before it has measured anything, has 64 tokens: so have all, if that is the most and time is no object. */
const CHUNK_TOKENS = 64;
const ENDLESS_MICROS = 1e12;
const CONTEXT_TOKENS = 192;
/** So few that two other texts push a conversation out. */
const KV_TOKENS = 256;
const FINGERPRINT = 'bench';
/** The likeliest tokens that are told with each token. */
const TOP = 5;
/** So many other texts push anything out. */
const OTHERS_LIMIT = 20;

export interface Said {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly TokenLogprob[];
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** What became of the file, if one was offered. */
  readonly restored: 'yes' | 'not-needed' | 'refused' | null;
}

export interface Question {
  readonly tenant: string;
  readonly text: string;
  readonly maxTokens: number;
  /** Under which name it stays; null: it doesn't. */
  readonly entry: string | null;
  readonly restore?: KvFile | null;
  readonly resumeTokens?: readonly number[];
}

/** What happens to a conversation between two turns, or to one that was preempted, until it goes on. */
export type Absence = 'stays' | 'others compute' | 'pushed out' | 'sleep' | 'another process';

export class KvRunner {
  readonly #path: string;
  readonly #folder: string;
  #runner: RunnerHarness;
  #asked = 0;
  /** Entries that lie idle on the device: of others no end will be heard. */
  readonly #idle = new Set<string>();
  readonly #others: string[] = [];

  private constructor(path: string, folder: string) {
    this.#path = path;
    this.#folder = folder;
    this.#runner = new RunnerHarness();
  }

  /** `folder`: where saved sequences go. */
  static async start(path: string, folder: string): Promise<KvRunner> {
    const runner = new KvRunner(path, folder);
    await runner.#begin();
    return runner;
  }

  async #begin(): Promise<void> {
    await this.#runner.message('started');
    await this.#load();
  }

  async #load(): Promise<void> {
    const shape = { contextTokens: CONTEXT_TOKENS, kvTokens: KV_TOKENS, batchTokens: CHUNK_TOKENS };
    await this.#runner.load(launchOf(this.#path, shape));
  }

  stop(): Promise<number | null> {
    return this.#runner.stop();
  }

  #request({ tenant, text, maxTokens, entry, restore = null, resumeTokens = [] }: Question): GenerateRequest {
    const kv: KvPlan | null = entry === null ? null : { entryId: kvEntryId(entry), restore };
    this.#asked += 1;
    return textRequest(text, {
      requestId: requestId(`q${this.#asked}`),
      tenantId: tenantId(tenant),
      maxTokens,
      ignoreEos: true,
      logprobs: TOP,
      resumeTokens,
      ...(kv === null ? {} : { kv }),
    });
  }

  #submit(request: GenerateRequest): number {
    this.#runner.tell({ type: 'submit', request });
    return this.#runner.slice({ stepMicros: ENDLESS_MICROS });
  }

  /** The whole answer. Rejects if it fails. */
  async ask(question: Question): Promise<Said> {
    const request = this.#request(question);
    this.#submit(request);
    const { last } = await this.#runner.answer(request.requestId);
    if (last.type !== 'finished') throw new Error(`a request ended with ${last.type}`);
    if (question.entry !== null) await this.#parked(question.entry);
    return this.#said(request);
  }

  /** Taken off the device after some tokens, what was computed kept; `isWhole`: it had ended by then. */
  async askAndPreempt(question: Question, afterTokens: number): Promise<{ said: Said; isWhole: boolean }> {
    if (question.entry === null) throw new Error('what is preempted needs a name');
    const request = this.#request(question);
    const slice = this.#submit(request);
    await this.#runner.until('some tokens', () =>
      this.#said(request).tokenIds.length >= afterTokens ? true : undefined,
    );
    this.#runner.tell({ type: 'cancel', requestId: request.requestId, keep: true });
    await this.#parked(question.entry);
    // All that was sent is here when the slice's report is.
    await this.#runner.report(slice);
    const isWhole = this.#runner.eventsOf(request.requestId).at(-1)?.type === 'finished';
    return { said: this.#said(request), isWhole };
  }

  #said({ requestId: id }: GenerateRequest): Said {
    const events = this.#runner.eventsOf(id);
    const tokens = events.filter((event) => event.type === 'tokens');
    const accepted = events.find((event) => event.type === 'accepted');
    return {
      text: tokens.map(({ text }) => text).join(''),
      tokenIds: tokens.flatMap(({ tokenIds }) => tokenIds),
      logprobs: tokens.flatMap(({ logprobs = [] }) => logprobs),
      promptTokens: accepted?.promptTokens ?? 0,
      cachedTokens: accepted?.cachedTokens ?? 0,
      restored: accepted?.restored ?? null,
    };
  }

  /** Until it is told what became of an ended request's KV. */
  async #parked(entry: string): Promise<void> {
    if ((await this.#heard(entry, ['kept', 'dropped'])) === 'kept') this.#idle.add(entry);
  }

  async #heard<Type extends string>(entry: string, types: readonly Type[]): Promise<Type> {
    for (;;) {
      const { event } = await this.#runner.message('kv');
      const type = types.find((one) => one === event.type);
      if (event.entryId === entry && type !== undefined) return type;
    }
  }

  /**
   * Does so to the idle entry. Returns its file; null: it is still on the device, or was too short to be kept. What others have left
   * stays where it is, until `clear`.
   */
  async leave(entry: string, tenant: string, absence: Absence, other: () => string): Promise<KvFile | null> {
    if (absence === 'stays') return null;
    if (absence === 'others compute') {
      await this.another(other());
      return null;
    }
    const file: KvFile = {
      path: join(this.#folder, `${entry}.kv`),
      tenantId: tenantId(tenant),
      fingerprint: FINGERPRINT,
    };
    this.#runner.tell({ type: 'grantKv', grant: { ...file, entryId: kvEntryId(entry), bytes: 1e9, label: {} } });
    const ended = this.#idle.delete(entry) ? this.#heard(entry, ['saved', 'dropped']) : Promise.resolve('dropped');
    if (absence === 'pushed out') await this.#pushOut(ended, other);
    else await this.#sleep(ended, absence === 'another process');
    return (await ended) === 'saved' ? file : null;
  }

  async #pushOut(ended: Promise<unknown>, other: () => string): Promise<void> {
    const wait = { isOver: false };
    const end = (): void => void (wait.isOver = true);
    ended.then(end, end);
    for (let count = 0; !wait.isOver; count++) {
      if (count === OTHERS_LIMIT) throw new Error('an idle sequence did not leave the device');
      await this.another(`${other()} ${other()}`);
    }
  }

  async #sleep(ended: Promise<unknown>, isAnotherProcess: boolean): Promise<void> {
    this.#runner.tell({ type: 'sleep' });
    await ended;
    await this.#runner.message('asleep');
    if (!isAnotherProcess) return this.#load();
    await this.#runner.stop();
    this.#runner = new RunnerHarness();
    return this.#begin();
  }

  /** Somebody else's text, which stays, too. */
  async another(text: string): Promise<void> {
    const entry = `other-${this.#asked}`;
    const request = this.#request({ tenant: 'others', text, maxTokens: 3, entry });
    this.#submit(request);
    await this.#runner.answer(request.requestId);
    this.#others.push(entry);
  }

  /** Others' cells are free again, and the entry's, if one is named. */
  clear(entry?: string): void {
    const entries = this.#others.splice(0);
    for (const one of entry === undefined ? entries : [...entries, entry])
      this.#runner.tell({ type: 'dropKv', entryId: kvEntryId(one) });
  }
}
