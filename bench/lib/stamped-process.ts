/** The node of lib/stamped-node.ts as a child. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export interface StampedNode {
  readonly url: string;
  /** CPU that its process has used so far. */
  cpuMicros(): Promise<number>;
  close(): void;
}

/** With a folder: the tenants, keys and ledger of its berth.db. */
export async function startStamped(home?: string): Promise<StampedNode> {
  const args = [join(import.meta.dirname, 'stamped-node.ts'), ...(home === undefined ? [] : [home])];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error('the node of the benchmark ended');
    return value;
  };
  return {
    url: await line(),
    async cpuMicros() {
      child.stdin.write('cpu\n');
      return Number(await line());
    },
    close() {
      child.stdin.end();
      child.kill();
    },
  };
}
