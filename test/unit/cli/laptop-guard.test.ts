import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { type TestContext } from 'node:test';

const skip = process.platform === 'win32';

/** An lpk that has made an urgent change, and undoes it when it gets a line. */
async function lpk(t: TestContext) {
  const root = fs.mkdtempSync(path.join(tmpdir(), 'lpk-guard-'));
  const [journals, file, log] = ['changes', 'changed', 'log'].map((name) => path.join(root, name)) as [
    string,
    string,
    string,
  ];
  const module = path.join(import.meta.dirname, '../../../cli/laptop-changes.ts');
  const script = `
    import { once } from 'node:events';
    import { LaptopChanges } from ${JSON.stringify(module)};
    const [journals, file, log] = process.argv.slice(1);
    const changes = LaptopChanges.open(journals);
    const undo = [{ run: ['sh', '-c', 'echo undone >>"$0"', log] }, { remove: file }];
    await changes.apply([{ what: 'x', do: [{ write: file, content: '' }], undo, urgent: true }]);
    console.log('ready');
    await once(process.stdin, 'data');
    await changes.undo();
    process.stdin.destroy(); // nothing else keeps it
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, journals, file, log], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.after(() => {
    child.kill('SIGKILL');
    fs.rmSync(root, { recursive: true, force: true });
  });
  await once(child.stdout!, 'data');
  return { child, journals, file, log };
}

/** Processes with the folder in their command line. */
function guards(journals: string): string[] {
  return fs.readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`undo-when-gone.ts\0${journals}\0`);
    } catch {
      return false; // it has ended
    }
  });
}

test('an urgent change is undone without any command when lpk is killed', { skip, timeout: 120_000 }, async (t) => {
  const { child, journals, file, log } = await lpk(t);
  assert.ok(fs.existsSync(file));
  child.kill('SIGKILL');
  while (fs.readdirSync(journals).length > 0) await new Promise(setImmediate);
  assert.equal(fs.existsSync(file), false);
  assert.equal(fs.readFileSync(log, 'utf8'), 'undone\n');
});

test('an lpk that undoes by itself dismisses its guard, which does not keep it from ending', {
  skip: process.platform !== 'linux',
  timeout: 120_000,
}, async (t) => {
  const { child, journals, file, log } = await lpk(t);
  assert.equal(guards(journals).length, 1);
  child.stdin!.write('go\n');
  assert.deepEqual(await once(child, 'exit'), [0, null]);
  assert.equal(fs.existsSync(file), false);
  while (guards(journals).length > 0) await new Promise(setImmediate);
  assert.equal(fs.readFileSync(log, 'utf8'), 'undone\n', 'once');
});
