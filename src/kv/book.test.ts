import { expect, test } from 'vitest';
import { kvEntryId, modelId, tenantId } from '../core/ids.ts';
import type { Bytes } from '../core/ids.ts';
import { createBook } from './book.ts';
import type { Book } from './book.ts';
import type { Command, EntryOwner } from './state.ts';

const M = modelId('m');
const owner = (id: string, steps: string, hint: string | null = null): EntryOwner => ({
  entryId: kvEntryId(id),
  tenantId: tenantId('a'),
  modelId: M,
  fingerprint: 'f',
  steps: Array.from(steps, (_, index) => steps.slice(0, index + 1)),
  hint,
});
const seen = (bytes: Bytes, tokens = 1000) => ({ tokens, bytes, recomputeMicros: tokens * 3000 });

function bookOf(hostBytes: Bytes | null, diskBytes: Bytes | null): Book {
  const book = createBook({ hostBytes, diskBytes, minimumTokens: 64 });
  for (const name of ['host', 'disk'] as const) book.scanned(name, 0);
  return book;
}
const told = (commands: readonly Command[]): string[] =>
  commands.map((command) => {
    if (command.type === 'grant') return `grant ${command.grant.entryId} on ${command.grant.tier}`;
    return command.type === 'move' ? `move ${command.move.entryId}` : `remove ${command.entryId} from ${command.tier}`;
  });
const saved = (id: string, bytes: Bytes) => ({ type: 'saved' as const, entryId: kvEntryId(id), bytes, micros: 10 });
/** Keeps and saves one that fits. */
function store(book: Book, id: string, steps: string, bytes: Bytes, now = 1): void {
  book.kept(owner(id, steps), seen(bytes), now);
  book.saved(saved(id, bytes), now);
}

test('idle on the device, granted, saved, found again', () => {
  const book = bookOf(100, null);
  book.kept(owner('1', 'ab'), seen(60), 1);
  expect(told(book.take())).toEqual(['grant 1 on host']);
  expect(book.find(owner('x', 'abc'))).toMatchObject({ depth: 2, entry: { entryId: '1', onDevice: true } });
  book.saved(saved('1', 50), 2);
  const found = book.find(owner('x', 'abc'));
  expect([...(found?.entry.files ?? [])]).toEqual(['host']);
  expect(book.tier('host')?.room.free()).toBe(50);
});

test('too short, or quicker to compute than to move: no grant', () => {
  const book = bookOf(1e9, null);
  book.kept(owner('short', 'a'), seen(10, 63), 1);
  book.kept(owner('quick', 'b'), { tokens: 1000, bytes: 5e8, recomputeMicros: 20_000 }, 1);
  expect(book.take()).toEqual([]);
});

test('a full host makes room by moving to the disk, and the grant comes when the bytes are really free', () => {
  const book = bookOf(100, 1000);
  store(book, '1', 'a', 80);
  book.take();
  book.kept(owner('2', 'b'), seen(80), 2);
  expect(told(book.take())).toEqual(['move 1']);
  book.moved(kvEntryId('1'), 'done', 3);
  expect(told(book.take())).toEqual(['remove 1 from host']);
  book.removed('host', kvEntryId('1'), true, 4);
  expect(told(book.take())).toEqual(['grant 2 on host']);
  expect([...(book.entry(kvEntryId('1'))?.files ?? [])]).toEqual(['disk']);
});

test('what waits for room and is continued meanwhile wants it no more', () => {
  const book = bookOf(100, 1000);
  store(book, '1', 'a', 80);
  book.kept(owner('2', 'b'), seen(80), 2);
  book.dropped(kvEntryId('2'), false, 3);
  book.take();
  book.moved(kvEntryId('1'), 'done', 3);
  book.removed('host', kvEntryId('1'), true, 4);
  expect(told(book.take())).toEqual(['remove 1 from host']);
  expect(book.tier('host')?.room.reservedBytes()).toBe(0);
});

test('too large for the host goes to the disk at once; too large for both stays where it is', () => {
  const book = bookOf(100, 1000);
  book.kept(owner('1', 'a'), seen(500), 1);
  book.kept(owner('2', 'b'), seen(5000), 1);
  expect(told(book.take())).toEqual(['grant 1 on disk']);
});

test('a full disk lets its cheapest go for what comes from the host', () => {
  const book = bookOf(100, 100);
  store(book, '1', 'a', 80);
  book.kept(owner('2', 'b'), seen(80), 1);
  book.take();
  book.moved(kvEntryId('1'), 'done', 2);
  book.removed('host', kvEntryId('1'), true, 2);
  book.saved(saved('2', 80), 2);
  book.take();
  book.kept(owner('3', 'c'), seen(80), 3);
  expect(told(book.take())).toEqual(['remove 1 from disk']);
  book.removed('disk', kvEntryId('1'), true, 4);
  expect(told(book.take())).toEqual(['move 2']);
  expect(book.find(owner('x', 'a'))).toBeNull();
});

test('a longer state of the same conversation replaces the shorter once it is in a file', () => {
  const book = bookOf(1000, null);
  store(book, '1', 'ab', 100);
  book.used(kvEntryId('1'), 2);
  book.take();
  book.kept(owner('2', 'abcd'), seen(100), 3);
  expect(told(book.take())).toEqual(['grant 2 on host']);
  expect(book.find(owner('x', 'ab'))?.entry.entryId).toBe('2');
  book.saved(saved('2', 100), 4);
  expect(told(book.take())).toEqual(['remove 1 from host']);
  expect(book.entry(kvEntryId('2'))?.uses).toBe(2);
});

test('… and stays if the longer one is lost', () => {
  const book = bookOf(100, null);
  store(book, '1', 'ab', 60);
  book.kept(owner('2', 'abcd'), seen(40), 3);
  book.modelGone(M, 4);
  expect(book.find(owner('x', 'abcd'))).toMatchObject({ depth: 2, entry: { entryId: '1', supersededBy: null } });
});

test('… and leaves before anything else when room is needed', () => {
  const book = bookOf(100, 1000);
  store(book, 'old', 'z', 10);
  store(book, '1', 'ab', 60);
  book.kept(owner('2', 'abcd'), seen(60), 3);
  expect(told(book.take())).toContain('remove 1 from host');
});

test('of equals the client’s own word decides, then nearness, then recency', () => {
  const book = bookOf(1000, null);
  book.kept(owner('device', 'ax'), seen(100), 1);
  store(book, 'early', 'ay', 100, 2);
  store(book, 'late', 'az', 100, 3);
  expect(book.find(owner('q', 'a!'))?.entry.entryId).toBe('device');
  book.dropped(kvEntryId('device'), false, 4);
  expect(book.find(owner('q', 'a!'))?.entry.entryId).toBe('late');
  book.kept(owner('named', 'aw', 'h'), seen(100), 5);
  book.saved(saved('named', 100), 5);
  store(book, 'later', 'av', 100, 6);
  expect(book.find(owner('q', 'a!', 'h'))?.entry.entryId).toBe('named');
});

test('what somebody is about to read stays, moved or not, until it was read', () => {
  const book = bookOf(100, 1000);
  store(book, '1', 'a', 80);
  book.take();
  book.kept(owner('2', 'b'), seen(80), 2);
  book.take();
  book.pin(kvEntryId('1'));
  book.moved(kvEntryId('1'), 'done', 3);
  expect(told(book.take())).toEqual(['grant 2 on disk']);
  book.unpin(kvEntryId('1'), 4);
  expect(told(book.take())).toEqual(['remove 1 from host']);
});

test('a pinned one is no victim: what comes is put on the disk instead', () => {
  const book = bookOf(100, 1000);
  store(book, '1', 'a', 80);
  book.pin(kvEntryId('1'));
  book.take();
  book.kept(owner('2', 'b'), seen(80), 2);
  expect(told(book.take())).toEqual(['grant 2 on disk']);
});

test('a disk that fails is left alone for a while; what can’t go there goes', () => {
  const book = bookOf(100, 1000);
  store(book, '1', 'a', 80);
  book.kept(owner('2', 'b'), seen(80), 2);
  book.take();
  book.moved(kvEntryId('1'), 'failed', 3);
  expect(told(book.take())).toEqual(['remove 1 from host']);
  book.kept(owner('3', 'c'), seen(500), 4);
  expect(book.take()).toEqual([]);
  book.kept(owner('4', 'd'), seen(500), 60e6);
  expect(told(book.take())).toContain('grant 4 on disk');
  expect(book.counters.failures).toBe(1);
});

test('a file larger than its grant is no file', () => {
  const book = bookOf(100, null);
  book.kept(owner('1', 'a'), seen(50), 1);
  book.saved(saved('1', 51), 2);
  expect(told(book.take())).toEqual(['grant 1 on host', 'remove 1 from host']);
  expect(book.entry(kvEntryId('1'))).toBeUndefined();
});

test('a dead model takes its idle sequences with it, and gives its reservations back', () => {
  const book = bookOf(100, null);
  book.kept(owner('1', 'a'), seen(50), 1);
  book.modelGone(M, 2);
  expect(told(book.take())).toEqual(['grant 1 on host', 'remove 1 from host']);
  book.saved(saved('1', 50), 3);
  book.removed('host', kvEntryId('1'), true, 4);
  expect([book.tier('host')?.room.free(), book.find(owner('x', 'a'))]).toEqual([100, null]);
});

test('a forgotten tenant leaves nothing, not even what is being written', () => {
  const book = bookOf(100, 1000);
  store(book, '1', 'a', 50);
  book.kept(owner('2', 'b'), seen(40), 2);
  book.take();
  expect(book.tenantGone(tenantId('a'), 3)).toEqual([{ modelId: M, entryId: '2' }]);
  expect(told(book.take())).toEqual(['remove 1 from host']);
  book.saved(saved('2', 40), 4);
  expect(told(book.take())).toEqual(['remove 2 from host']);
  expect([...book.entries()]).toEqual([]);
});

test('ahead of a preemption a grant comes from what is free at this moment, or not at all', () => {
  const book = bookOf(100, 200);
  expect(book.grantAhead(owner('1', 'a'), 1000, 80, 1)).toMatchObject({ tier: 'host', bytes: 80 });
  expect(book.grantAhead(owner('2', 'b'), 1000, 80, 1)).toMatchObject({ tier: 'disk' });
  expect(book.grantAhead(owner('3', 'c'), 1000, 180, 1)).toBeNull();
  expect(book.grantAhead(owner('4', 'd'), 63, 10, 1)).toBeNull();
  book.kept(owner('1', 'a'), seen(80), 2);
  expect(book.take()).toEqual([]);
  book.saved(saved('1', 70), 3);
  expect(book.entry(kvEntryId('1'))?.files.has('host')).toBe(true);
});

test('restoring must be worth it: enough shared tokens, dearer to compute than to read', () => {
  const book = bookOf(1e9, null);
  book.kept(owner('1', 'ab'), { tokens: 1000, bytes: 4e8, recomputeMicros: 1e6 }, 1);
  book.saved(saved('1', 4e8), 2);
  const entry = book.entry(kvEntryId('1'));
  if (entry === undefined) throw new Error('it is gone');
  expect(book.isWorthRestoring(entry, 1000)).toBe(true);
  expect(book.isWorthRestoring(entry, 80)).toBe(false);
  expect(book.isWorthRestoring(entry, 63)).toBe(false);
  for (let round = 0; round < 20; round++) book.restored('host', 4e8, 2e6);
  expect(book.isWorthRestoring(entry, 1000)).toBe(false);
});

test('nothing is granted before it is known what lies there; what is found counts, and is found', () => {
  const book = createBook({ hostBytes: 100, diskBytes: null, minimumTokens: 64 });
  book.kept(owner('new', 'n'), seen(50), 1);
  expect(book.grantAhead(owner('ahead', 'm'), 1000, 10, 1)).toBeNull();
  book.open('host', 60, 2);
  expect(book.take()).toEqual([]);
  const rest = { tokens: 100, recomputeMicros: 1e6, uses: 3, usedAt: -5 };
  book.adopt('host', { ...owner('old', 'ab'), ...rest, bytes: 30 }, 3);
  expect(book.take()).toEqual([]);
  book.shed('host', 30, 4);
  expect(told(book.take())).toEqual(['grant new on host']);
  expect(book.find(owner('x', 'abc'))?.entry).toMatchObject({ entryId: 'old', uses: 3 });
});

test('at the end all leaves the host, the dearest first', () => {
  const book = bookOf(1000, 1000);
  store(book, 'cheap', 'a', 300);
  store(book, 'dear', 'b', 100);
  store(book, 'middle', 'c', 200);
  book.take();
  book.drain(2);
  expect(told(book.take())).toEqual(['move dear', 'move middle', 'move cheap']);
});
