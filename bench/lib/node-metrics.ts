/** What a node says of itself on its admin listener. */
import { setTimeout as pause } from 'node:timers/promises';

/** The sum of a metric over all its labels. 0 if it has no sample yet. */
export function sumOf(text: string, metric: string): number {
  let sum = 0;
  for (const line of text.split('\n')) {
    if (line.startsWith(`${metric}{`) || line.startsWith(`${metric} `))
      sum += Number(line.slice(line.lastIndexOf(' ') + 1));
  }
  return sum;
}

/** Lane-seconds computed so far, once the node is idle: a slice is counted when it ends. */
export async function deviceSeconds(adminUrl: string): Promise<number> {
  const read = async (): Promise<number> =>
    sumOf(await (await fetch(`${adminUrl}/metrics`)).text(), 'berth_device_seconds_total');
  let before = await read();
  for (let tries = 0; tries < 40; tries++) {
    await pause(100);
    const now = await read();
    if (now === before) return now;
    before = now;
  }
  throw new Error('the node does not come to rest');
}
