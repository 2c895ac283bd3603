import fc from 'fast-check';
import { expect, test } from 'vitest';
import { kvEntryId, modelId, tenantId } from '../core/ids.ts';
import type { Bytes, KvEntryId } from '../core/ids.ts';
import { createBook } from './book.ts';
import type { Book } from './book.ts';
import type { Command, EntryOwner, TierName } from './state.ts';

const MODELS = ['m', 'n'].map(modelId);
const TENANTS = ['a', 'b'].map(tenantId);
const BUDGETS = { host: 100, disk: 160 } as const;

const step = fc.record({
  act: fc.constantFrom(
    'kept',
    'kept',
    'kept',
    'saved',
    'saved',
    'dropped',
    'ahead',
    'find',
    'unpin',
    'used',
    'refused',
    'complete',
    'complete',
    'complete',
    'complete',
    'died',
    'forget',
    'stray',
  ),
  tenant: fc.nat(1),
  model: fc.nat(1),
  steps: fc.string({ unit: fc.constantFrom('x', 'y'), minLength: 1, maxLength: 4 }),
  bytes: fc.integer({ min: 1, max: 70 }),
  /** Which of what is under way; whether it succeeds. */
  pick: fc.nat(50),
  luck: fc.constantFrom('done', 'done', 'done', 'failed', 'gone', 'lost'),
});
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** What engines and disks do with the book's commands, in any order and late; it knows what really lies where. */
class World {
  readonly book: Book = createBook({ hostBytes: BUDGETS.host, diskBytes: BUDGETS.disk, minimumTokens: 64 });
  /** Bytes that may lie in a tier now: grants and copies count whole. */
  readonly real = new Map<string, Bytes>();
  readonly idle = new Map<KvEntryId, EntryOwner>();
  readonly grants = new Map<KvEntryId, { tier: TierName; bytes: Bytes }>();
  readonly pins: KvEntryId[] = [];
  underWay: Command[] = [];
  now = 0;
  private made = 0;

  constructor() {
    this.book.scanned('host', 0);
    this.book.scanned('disk', 0);
  }

  take(): void {
    for (const command of this.book.take()) {
      if (command.type === 'grant') this.granted(command.grant.entryId, command.grant);
      else {
        if (command.type === 'move') this.real.set(`disk ${command.move.entryId}`, command.move.bytes);
        this.underWay.push(command);
      }
    }
  }

  private granted(id: KvEntryId, { tier, bytes }: { tier: TierName; bytes: Bytes }): void {
    this.grants.set(id, { tier, bytes });
    this.real.set(`${tier} ${id}`, bytes);
  }

  ownerOf({ tenant, model, steps }: Step): EntryOwner {
    return {
      entryId: kvEntryId(`e${this.made++}`),
      tenantId: TENANTS[tenant] ?? tenantId('?'),
      modelId: MODELS[model] ?? modelId('?'),
      fingerprint: `f${model}`,
      // The same names for all: it must not depend on hashes to keep tenants apart.
      steps: Array.from(steps, (_, index) => steps.slice(0, index + 1)),
      hint: null,
    };
  }

  private pickIdle(pick: number): KvEntryId | undefined {
    return [...this.idle.keys()][pick % Math.max(1, this.idle.size)];
  }

  /** Of the device, by the engine's word. */
  private leaveDevice(id: KvEntryId): void {
    this.idle.delete(id);
    this.grants.delete(id);
  }

  private complete(pick: number, luck: Step['luck']): void {
    const command = this.underWay[pick % Math.max(1, this.underWay.length)];
    if (command === undefined || luck === 'lost') return;
    this.underWay = this.underWay.filter((one) => one !== command);
    if (command.type === 'move') {
      const { entryId } = command.move;
      const result = this.real.has(`host ${entryId}`) ? luck : 'gone';
      if (result !== 'done') this.real.delete(`disk ${entryId}`);
      this.book.moved(entryId, result, this.now);
    } else if (command.type === 'remove') {
      if (luck !== 'failed') this.real.delete(`${command.tier} ${command.entryId}`);
      this.book.removed(command.tier, command.entryId, luck !== 'failed', this.now);
    }
  }

  step(one: Step): void {
    const { book } = this;
    this.now += one.act === 'find' ? 40_000_000 : 1000;
    const id = this.pickIdle(one.pick);
    if (one.act === 'kept') {
      const owner = this.ownerOf(one);
      this.idle.set(owner.entryId, owner);
      book.kept(owner, { tokens: 100, bytes: one.bytes, recomputeMicros: 1e6 + one.pick * 1e4 }, this.now);
    } else if (one.act === 'ahead') {
      const owner = this.ownerOf(one);
      const grant = book.grantAhead(owner, 100, one.bytes, this.now);
      if (grant !== null) this.granted(owner.entryId, grant);
      this.idle.set(owner.entryId, owner);
      book.kept(owner, { tokens: 100, bytes: one.bytes, recomputeMicros: 1e6 }, this.now);
    } else if (one.act === 'saved' && id !== undefined) {
      const grant = this.grants.get(id);
      if (grant === undefined) return;
      const bytes = Math.max(1, grant.bytes - (one.pick % 3));
      this.leaveDevice(id);
      this.real.set(`${grant.tier} ${id}`, bytes);
      book.saved({ type: 'saved', entryId: id, bytes, micros: 5 }, this.now);
    } else if (one.act === 'dropped' && id !== undefined) {
      const grant = this.grants.get(id);
      if (grant !== undefined) this.real.delete(`${grant.tier} ${id}`);
      this.leaveDevice(id);
      book.dropped(id, one.luck === 'failed', this.now);
    } else if (one.act === 'find') {
      const asked = this.ownerOf(one);
      const found = book.find(asked);
      if (found === null) return;
      expect(found.entry.tenantId).toBe(asked.tenantId);
      expect(found.entry.fingerprint).toBe(asked.fingerprint);
      if (found.entry.onDevice) expect(found.entry.modelId).toBe(asked.modelId);
      else {
        book.pin(found.entry.entryId);
        this.pins.push(found.entry.entryId);
      }
    } else if (one.act === 'unpin') {
      const [pinned] = this.pins.splice(one.pick % Math.max(1, this.pins.length), 1);
      if (pinned !== undefined) book.unpin(pinned, this.now);
    } else if (one.act === 'used' || one.act === 'refused') {
      const known = [...book.entries()][one.pick];
      if (known !== undefined && !known.onDevice) book[one.act](known.entryId, this.now);
    } else if (one.act === 'complete') this.complete(one.pick, one.luck);
    else if (one.act === 'died') this.die(one.model);
    else if (one.act === 'forget') book.tenantGone(TENANTS[one.tenant] ?? tenantId('?'), this.now);
    else if (one.act === 'stray') {
      // Heard late, twice, or of what nobody knows.
      const stray = kvEntryId(`e${one.pick}`);
      if (!this.grants.has(stray) && !this.idle.has(stray)) {
        book.saved({ type: 'saved', entryId: stray, bytes: one.bytes, micros: 1 }, this.now);
        book.dropped(stray, false, this.now);
        book.unpin(kvEntryId('nobody'), this.now);
      }
    }
  }

  die(model: number): void {
    for (const [id, owner] of this.idle) if (owner.modelId === MODELS[model]) this.leaveDevice(id);
    const modelGone = MODELS[model];
    if (modelGone !== undefined) this.book.modelGone(modelGone, this.now);
  }

  check(): void {
    for (const name of ['host', 'disk'] as const) {
      const room = this.book.tier(name)?.room;
      if (room === undefined) throw new Error('no tier');
      expect(room.fileBytes() + room.reservedBytes()).toBeLessThanOrEqual(BUDGETS[name]);
      let real = 0;
      for (const [where, bytes] of this.real) if (where.startsWith(name)) real += bytes;
      expect(real).toBeLessThanOrEqual(room.fileBytes() + room.reservedBytes());
    }
    for (const { entryId, files, onDevice } of this.book.entries()) {
      expect(onDevice || files.size > 0).toBe(true);
      for (const name of files) expect(this.real.has(`${name} ${entryId}`)).toBe(true);
    }
  }

  /** All is told, everything leaves. */
  finish(): void {
    for (const id of this.pins.splice(0)) this.book.unpin(id, this.now);
    for (const model of [0, 1]) this.die(model);
    for (const tenant of TENANTS) this.book.tenantGone(tenant, this.now);
    for (let round = 0; round < 1000; round++) {
      this.take();
      if (this.underWay.length === 0) break;
      this.complete(0, 'done');
    }
  }
}

test('whatever happens in whatever order: budgets hold, owners are kept apart, and all bytes come back', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: 'max' }), fc.boolean(), (steps, mayFail) => {
      const world = new World();
      for (const one of steps) {
        // What can't be removed counts for ever: the last check needs worlds in which everything can.
        world.step(
          mayFail || one.act === 'dropped' ? one : { ...one, luck: one.luck === 'failed' ? 'done' : one.luck },
        );
        world.take();
        world.check();
      }
      world.finish();
      world.check();
      if (mayFail) return;
      for (const name of ['host', 'disk'] as const) {
        const room = world.book.tier(name)?.room;
        expect([room?.free(), room?.coming(), room?.reservedBytes()]).toEqual([BUDGETS[name], 0, 0]);
      }
      expect([...world.book.entries()]).toEqual([]);
      expect(world.real.size).toBe(0);
    }),
    { numRuns: 200 },
  );
});
