import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { finished, Story } from '../../test/story.ts';
import { charge, chargeMicros, enter, learnWorth, leastServed, leave, tenantOf } from './fairness.ts';
import { SECOND, tenantId } from './ids.ts';
import { createState } from './state.ts';

const [ann, bob, eve] = ['ann', 'bob', 'eve'].map(tenantId) as [
  ReturnType<typeof tenantId>,
  ReturnType<typeof tenantId>,
  ReturnType<typeof tenantId>,
];

describe('virtual token counter', () => {
  it('serves the tenant with the least service next, and the first of equals', () => {
    const state = createState();
    charge(tenantOf(state, ann), 100);
    charge(tenantOf(state, bob), 99);
    expect(leastServed(state, [ann, bob])).toBe(bob);
    expect(leastServed(state, [ann, eve, bob])).toBe(eve);
    charge(tenantOf(state, bob), 1);
    expect(leastServed(state, [bob, ann])).toBe(bob);
    expect(leastServed(state, [])).toBeNull();
  });

  it('counts half for twice the weight', () => {
    const state = createState();
    tenantOf(state, ann).weight = 2;
    charge(tenantOf(state, ann), 100);
    charge(tenantOf(state, bob), 60);
    expect(leastServed(state, [ann, bob])).toBe(ann);
  });

  it('lifts who comes back to the least of those who are there: idling earns no credit', () => {
    const state = createState();
    const [a, b] = [tenantOf(state, ann), tenantOf(state, bob)];
    enter(state, a);
    charge(a, 1_000);
    enter(state, b);
    expect(b.counter).toBe(a.counter);
  });

  it('in an empty node, lifts to the counter of who was last to leave', () => {
    const state = createState();
    const [a, b] = [tenantOf(state, ann), tenantOf(state, bob)];
    enter(state, a);
    charge(a, 1_000);
    leave(state, a);
    enter(state, b);
    expect(b.counter).toBe(a.counter);
  });

  it('keeps two backlogged tenants within one charge of each other', () => {
    const charges = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 200 });
    fc.assert(
      fc.property(charges, fc.integer({ min: 1, max: 5 }), (costs, weight) => {
        const state = createState();
        tenantOf(state, ann).weight = weight;
        for (const id of [ann, bob]) enter(state, tenantOf(state, id));
        for (const cost of costs) {
          const next = leastServed(state, [ann, bob]);
          if (next !== null) charge(tenantOf(state, next), cost);
          const gap = Math.abs(tenantOf(state, ann).counter - tenantOf(state, bob).counter);
          expect(gap).toBeLessThanOrEqual(500_000);
        }
      }),
    );
  });

  it('starts the least served tenant’s request, and says with which counter', () => {
    const story = new Story({ models: { a: { parallel: 1 } } });
    story.run('ann1', 'a', { tenant: 'ann', promptTokens: 500 });
    story.ask('ann2', 'a', { tenant: 'ann' });
    story.ask('bob1', 'a', { tenant: 'bob' });
    story.finished('ann1', { promptTokens: 500, outputTokens: 50 });
    const start = story.one('startRequest');
    // Ann has had 500 + 2 × 50 tokens and a load as long as the device makes 100 tokens; Bob was lifted to what Ann had been charged when he came.
    expect(start).toMatchObject({
      requestId: 'bob1',
      because: { rule: 'least-served', active: 1, parallel: 1, waiting: 1 },
    });
    expect(tenantOf(story.state, ann).counter).toBe(700_000);
  });

  it('serves the least served user of a tenant first, and by arrival who says nothing', () => {
    const story = new Story({ models: { a: { parallel: 1 } } });
    const ask = (id: string, share?: string): void =>
      void story.ask(id, 'a', { tenant: 'ann', promptTokens: 100, ...(share !== undefined && { share }) });
    for (const id of ['x1', 'x2', 'x3']) ask(id, 'x');
    story.loaded('a');
    ask('y1', 'y');
    ask('batch', 'z');
    const order: string[] = [];
    for (let running = 'x1'; running !== ''; ) {
      story.finished(running, { promptTokens: 100, outputTokens: 0 });
      running = story.all('startRequest')[0]?.requestId ?? '';
      order.push(running);
    }
    // y and z were lifted to what x had been charged when they came: x1.
    expect(order).toEqual(['x2', 'y1', 'batch', 'x3', '']);
    expect(tenantOf(story.state, ann).shares.size).toBe(0);
  });

  it('keeps users of one tenant apart from its counter', () => {
    const state = createState();
    const [a, b] = [tenantOf(state, ann), tenantOf(state, bob)];
    for (const name of ['x', 'y']) enter(state, a, name);
    enter(state, b);
    charge(a, 100, 'x');
    expect([a.counter, b.counter, a.shares.get('x')?.counter, a.shares.get('y')?.counter]).toEqual([1e5, 0, 1e5, 0]);
    leave(state, a, 'y');
    charge(a, 100, 'x');
    enter(state, a, 'y');
    expect(a.shares.get('y')?.counter).toBe(2e5);
  });

  it('charges the prompt when it is taken, so that a burst is not all taken at the old counter', () => {
    const story = new Story({ models: { a: { parallel: 2 } } });
    for (const id of ['ann1', 'ann2']) story.ask(id, 'a', { tenant: 'ann', promptTokens: 100 });
    for (const id of ['bob1', 'bob2']) story.ask(id, 'a', { tenant: 'bob', promptTokens: 100 });
    story.loaded('a');
    expect(story.all('startRequest').map(({ requestId: id }) => id)).toEqual(['ann1', 'bob1']);
  });

  it('has a load paid by those who waited for it, in equal parts', () => {
    const story = new Story({ models: { a: { parallel: 4 } } });
    for (const id of ['ann1', 'ann2', 'ann3']) story.ask(id, 'a', { tenant: 'ann', promptTokens: 1 });
    story.ask('bob1', 'a', { tenant: 'bob', promptTokens: 1 });
    story.loaded('a');
    // In 500 ms a lane makes 100 tokens: that is what is assumed until something was computed.
    expect(tenantOf(story.state, ann).counter).toBe(3 * (25_000 + 1_000));
    expect(tenantOf(story.state, bob).counter).toBe(25_000 + 1_000);
  });

  it('charges the time in which saved KV was read back', () => {
    const story = new Story();
    story.run('ann1', 'a', { tenant: 'ann', promptTokens: 10 });
    const before = tenantOf(story.state, ann).counter;
    story.tell({ ...finished('ann1', { promptTokens: 10, outputTokens: 0 }), restoreMicros: 5_000 });
    expect(tenantOf(story.state, ann).counter - before).toBe(1_000);
  });

  it('counts a lane’s time as what the device makes in it, and forgets what it made long ago', () => {
    const state = createState();
    const ofASecond = (): number => {
      const tenant = tenantOf(state, eve);
      const before = tenant.counter;
      chargeMicros(state, eve, SECOND);
      return (tenant.counter - before) / 1000;
    };
    for (let second = 0; second < 100; second++) learnWorth(state, 1_000, SECOND);
    expect(ofASecond()).toBeCloseTo(1_000, -1);
    for (let second = 0; second < 100; second++) learnWorth(state, 50, SECOND);
    expect(ofASecond()).toBeCloseTo(50, -1);
  });

  it('of equals serves the one that has fewer requests in the node', () => {
    const state = createState();
    for (const id of [ann, ann, bob]) enter(state, tenantOf(state, id));
    expect(leastServed(state, [ann, bob])).toBe(bob);
  });
});
