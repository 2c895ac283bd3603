import { describe, expect, it } from 'vitest';
import { createTransitions } from './transitions.ts';

interface Reports {
  up: string;
  down: string;
}

describe('transitions', () => {
  it('shares one change among those who ask for the same, and runs the next after it', async () => {
    const order: string[] = [];
    const transitions = createTransitions<Reports>();
    const go = (target: 'up' | 'down'): Promise<string> =>
      transitions.ensure(target, async () => {
        order.push(target);
        await Promise.resolve();
        return `${target} ${order.length}`;
      });
    const first = go('up');
    expect(go('up')).toBe(first);
    const down = go('down');
    const again = go('up');
    expect(transitions.heading()).toBe('up');
    expect(await Promise.all([first, down, again])).toEqual(['up 1', 'down 2', 'up 3']);
    expect(transitions.heading()).toBeNull();
  });

  it('goes on after a change that failed', async () => {
    const transitions = createTransitions<Reports>();
    const failed = transitions.ensure('up', () => Promise.reject(new Error('no')));
    const down = transitions.ensure('down', () => Promise.resolve('down'));
    await expect(failed).rejects.toThrow('no');
    await expect(down).resolves.toBe('down');
  });

  it('refuses a caller that flaps', async () => {
    const transitions = createTransitions<Reports>();
    const all: Promise<string>[] = [];
    for (let i = 0; i < 9; i++) all.push(transitions.ensure(i % 2 ? 'down' : 'up', () => Promise.resolve('done')));
    const results = await Promise.allSettled(all);
    expect(results.filter((r) => r.status === 'rejected')).toHaveLength(1);
  });
});
