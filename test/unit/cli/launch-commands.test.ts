/** How the program in a folder is started, by what lies in it. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { findLaunchCommands } from '../../../cli/launch-commands.ts';

const dir = mkdtempSync(join(tmpdir(), 'lpk-launch-commands-'));
after(() => rmSync(dir, { recursive: true }));

function commands(files: Record<string, string>): string[] {
  const folder = mkdtempSync(join(dir, 'code-'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return findLaunchCommands(folder).map(({ command }) => command.join(' '));
}

const TABLE: [string, Record<string, string>, string[]][] = [
  ['nothing', {}, []],
  [
    'package.json',
    { 'package.json': '{"scripts":{"test":"x","start":"node a","dev":"vite"},"main":"a.js"}', 'a.js': '' },
    ['npm run dev', 'npm start', 'node a.js'],
  ],
  ['pnpm by its lock', { 'package.json': '{"scripts":{"start":"x"}}', 'pnpm-lock.yaml': '' }, ['pnpm start']],
  ['yarn by name', { 'package.json': '{"packageManager":"yarn@4.1.0","scripts":{"dev":"x"}}' }, ['yarn run dev']],
  ['a broken package.json', { 'package.json': '{', 'server.js': '' }, ['node server.js']],
  [
    'launchSettings.json, with a byte order mark and comments',
    {
      'shop.csproj': '<Project/>',
      'Properties/launchSettings.json':
        '\uFEFF{\n// VS writes these\n"profiles":{"IIS Express":{"commandName":"IISExpress"},"shop":{"commandName":"Project"}}}',
    },
    ['dotnet run --launch-profile shop', 'dotnet run'],
  ],
  ['go.mod', { 'go.mod': 'module x', 'main.go': 'package main\n' }, ['go run .']],
  [
    'go.mod with cmd/',
    {
      'go.mod': 'module x',
      'lib.go': 'package x\n',
      'cmd/api/main.go': '// c\npackage main\n',
      'cmd/lib/a.go': 'package lib\n',
    },
    ['go run ./cmd/api'],
  ],
  ['Spring with Maven', { 'pom.xml': '<artifactId>spring-boot-maven-plugin', mvnw: '' }, ['./mvnw spring-boot:run']],
  ['Maven that starts nothing', { 'pom.xml': '<project/>' }, []],
  ['Quarkus with Gradle', { 'build.gradle': "id 'io.quarkus'" }, ['gradle quarkusDev']],
  ['Spring with Gradle', { 'build.gradle.kts': 'id("org.springframework.boot")', gradlew: '' }, ['./gradlew bootRun']],
  ['Django', { 'manage.py': '', '.venv/bin/python': '' }, ['.venv/bin/python manage.py runserver']],
  [
    'FastAPI',
    { 'main.py': 'from fastapi import FastAPI\napi = FastAPI()\n' },
    ['python3 -m uvicorn main:api', 'python3 main.py'],
  ],
  ['Rust', { 'Cargo.toml': '', 'src/main.rs': '' }, ['cargo run']],
  [
    'Rails and a Procfile',
    { 'bin/rails': '', Procfile: 'worker: x\nweb: bundle exec puma -C "a b"\n' },
    ['bin/rails server', 'bundle exec puma -C a b'],
  ],
  ['a Procfile that needs a shell', { Procfile: 'web: puma -p $PORT\n' }, []],
  [
    'Dockerfile',
    { Dockerfile: 'FROM a AS b\nCMD ["no"]\nFROM c\nENTRYPOINT ["java", \\\n "-jar"]\nCMD [ "app.jar" ]\n' },
    ['java -jar app.jar'],
  ],
  ['a Dockerfile in shell form', { Dockerfile: 'FROM a\nCMD npm start\n' }, []],
  [
    'the same twice',
    { 'package.json': '{"scripts":{"start":"x"}}', Dockerfile: 'FROM a\nCMD ["npm","start"]\n' },
    ['npm start'],
  ],
  ['a file without bounds', { 'package.json': `{"scripts":{"start":"${'x'.repeat(1024 * 1024)}"}}` }, []],
];

for (const [what, files, expected] of TABLE) {
  test(what, () => assert.deepEqual(commands(files), expected));
}
