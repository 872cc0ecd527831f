import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { endLeftVolumes } from '../../../cli/volume-leftovers.ts';
import { until } from '../wire/harness.ts';

const MODULE = path.join(import.meta.dirname, '../../../cli/volume-leftovers.ts');

function laptop(t: TestContext) {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'lpk-left-')));
  t.after(() => rmSync(folder, { recursive: true }));
  const notes = path.join(folder, 'state/lpk/volumes');
  const at = (name: string) => path.join(folder, name);
  const said: string[] = [];
  return {
    ...{ folder, notes, at, said },
    endLeft: () => endLeftVolumes(notes, (line) => said.push(line)),
    /** An lpk with a session in the folder `name`, which does what `script` says with its `note`, and stays. */
    async lpk(name: string, script = '', points: string[] = []): Promise<ChildProcess> {
      const session = { folder: at(name), keepIn: at(`unwritten-${name}`), readOnly: ['/secret'] };
      mkdirSync(at(`${name}/files/secret`), { recursive: true });
      writeFileSync(at(`${name}/files/secret/key`), 'hidden');
      const program = `import { VolumesNote } from ${JSON.stringify(MODULE)};
        const note = VolumesNote.open(${JSON.stringify(session)});
        note.usePoints(...${JSON.stringify([points, points])});
        process.stdin.once('data', () => { ${script}; console.log('done'); });
        console.log('ready'); setInterval(() => {}, 1_000)`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['pipe', 'pipe', 'inherit'],
        env: { ...process.env, XDG_STATE_HOME: at('state') },
      });
      t.after(() => child.kill('SIGKILL'));
      await once(child.stdout as NodeJS.ReadableStream, 'data');
      return child;
    },
    /** As after `docker stop` or a power cut: the guard is dead as well. */
    async killWithGuard(child: ChildProcess): Promise<void> {
      const note = readdirSync(notes).find((name) => name.startsWith(`${child.pid}-`)) as string;
      renameSync(path.join(notes, note), at('note'));
      child.kill('SIGKILL');
      await once(child, 'exit');
      const guard = (name: string) => {
        try {
          return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(`\0${notes}\0${child.pid}\0`);
        } catch {
          return false;
        }
      };
      await until(() => !readdirSync('/proc').some(guard), 'its guard found nothing and ended', 60_000);
      renameSync(at('note'), path.join(notes, note));
    },
  };
}

test('killed, lpk leaves no copy and no mount point', async (t) => {
  const { lpk, at, notes } = laptop(t);
  mkdirSync(at('made/deep'), { recursive: true });
  const child = await lpk('one', '', [at('made'), at('made/deep')]);
  child.kill('SIGKILL');
  await until(() => readdirSync(notes).length === 0, 'the guard has done it', 60_000);
  assert.deepEqual([existsSync(at('one')), existsSync(at('made'))], [false, false]);
});

test('where the state folder can not be made, there is a guard still', async (t) => {
  const { lpk, at } = laptop(t);
  writeFileSync(at('state'), 'a file');
  const child = await lpk('one');
  child.kill('SIGKILL');
  await until(() => !existsSync(at('one')), 'the guard has done it', 60_000);
});

test('when its guard is killed as well, the next lpk does it, keeps what was not written back, and says so', async (t) => {
  const { lpk, at, notes, said, endLeft, killWithGuard } = laptop(t);
  const child = await lpk('one');
  await lpk('running');
  for (const [i, name] of ['written', 'not-written'].entries()) {
    mkdirSync(at(`one/files/${name}`));
    writeFileSync(at(`one/files/${name}/f`), 'mine');
    writeFileSync(at(`one/stamps/${i}`), `/${name}`);
    const seconds = i === 0 ? Date.now() / 1_000 + 60 : 0;
    utimesSync(at(`one/stamps/${i}`), seconds, seconds);
  }
  await killWithGuard(child);
  endLeft();
  assert.equal(existsSync(at('one')), false);
  assert.deepEqual(readdirSync(at('unwritten-one')), ['not-written']);
  assert.equal(readFileSync(at('unwritten-one/not-written/f'), 'utf8'), 'mine');
  assert.deepEqual(said, [
    `removed the copies of volumes that an lpk that is gone (pid ${child.pid}) left; what it had not written back is in ${at('unwritten-one')}`,
  ]);
  assert.deepEqual([existsSync(at('running/files/secret/key')), readdirSync(notes).length], [true, 1]);
  endLeft();
  assert.equal(said.length, 1);
});

test('what can not be kept stays, is told, and is tried again by the next lpk', async (t) => {
  const { lpk, at, said, endLeft, killWithGuard, folder, notes } = laptop(t);
  const child = await lpk('one');
  mkdirSync(at('one/files/data'));
  writeFileSync(at('one/stamps/0'), '/data');
  utimesSync(at('one/stamps/0'), 0, 0);
  writeFileSync(at('unwritten-one'), 'in the way');
  await killWithGuard(child);
  endLeft();
  assert.equal(existsSync(at('one/files/data')), true);
  assert.match(said[0] ?? '', new RegExp(`can't be moved from ${folder}/one to ${folder}/unwritten-one$`));
  // This process has the note now, and it runs.
  assert.equal(readdirSync(notes)[0]?.startsWith(`${process.pid}-`), true);
});

test('a folder that is somebody else’s by now is left alone', async (t) => {
  const { lpk, at, endLeft, killWithGuard } = laptop(t);
  const child = await lpk('one');
  renameSync(at('one'), at('theirs'));
  symlinkSync('theirs', at('one'));
  await killWithGuard(child);
  endLeft();
  assert.equal(existsSync(at('theirs/files/secret/key')), true);
});

test('a mount point goes with the last session that uses it', async (t) => {
  const { lpk, at } = laptop(t);
  mkdirSync(at('made/deep'), { recursive: true });
  const first = await lpk('one', 'note.removePoints()', [at('made'), at('made/deep')]);
  // Which has found what the first one made.
  const second = await lpk('two', 'note.removePoints()', [at('made/deep')]);
  for (const [child, isThere] of [
    [first, true],
    [second, false],
  ] as const) {
    child.stdin?.write('now\n');
    await once(child.stdout as NodeJS.ReadableStream, 'data');
    assert.equal(existsSync(at('made/deep')), isThere);
  }
  assert.equal(existsSync(at('made')), false);
});
