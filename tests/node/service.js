'use strict';
// An agent service in Node: `node service.js [ADDRESS]` prints the address that it serves, and ends when its standard input does.
//
// Two agents. `js_words`, sync, counts the words of its input `text`. `js_job`, async, does the same in a job that takes a while; the task's
// custom says how: seconds, fails (a message), refuses (a message: it cannot be created), file (the outputs go into outputs.pb under the prefix).

const fs = require('node:fs');
const {grpc, messages, services, plain, integer, text, literal} = require('./flyteidl.js');

const AGENTS = [
  {name: 'Words in JavaScript', isSync: true, supportedTaskCategories: [{name: 'js_words', version: 0}]},
  {name: 'Jobs in JavaScript', isSync: false, supportedTaskCategories: [{name: 'js_job', version: 0}]},
];
const jobs = new Map();

const failed = (code, details) => ({code, details});

function answerOf(inputs) {
  const words = String(literal(inputs, 'text') ?? '').split(/\s+/).filter(Boolean);
  return {literals: {words: integer(words.length), loud: text(words.join(' ').toUpperCase())}};
}

// --- async ---

function createTask({request}, answer) {
  const script = plain(request.template.custom);
  if (script.refuses) {
    return answer(failed(grpc.status.INVALID_ARGUMENT, script.refuses));
  }
  const id = `job-${jobs.size + 1}`;
  jobs.set(id, {...script, began: Date.now(), outputs: answerOf(request.inputs), prefix: request.outputPrefix, log: [`${id} created`]});
  answer(null, {resourceMeta: Buffer.from(JSON.stringify({id}))});
}

function jobOf(request) {
  return jobs.get(JSON.parse(request.resourceMeta.toString()).id);
}

function getTask({request}, answer) {
  const job = jobOf(request);
  if (!job) {
    return answer(failed(grpc.status.NOT_FOUND, 'there is no such job'));
  }
  const logLinks = [{name: 'console', uri: 'http://localhost/console'}];
  if (job.deleted) {
    return answer(null, {resource: {phase: 'ABORTED', message: 'deleted', logLinks}});
  }
  if (Date.now() - job.began < 1000 * (job.seconds ?? 0)) {
    return answer(null, {resource: {phase: 'RUNNING', message: 'counting', logLinks}});
  }
  job.log.push('counted');
  if (job.fails) {
    return answer(null, {resource: {phase: 'FAILED', message: job.fails, logLinks}});
  }
  const resource = {phase: 'SUCCEEDED', message: 'counted', logLinks};
  if (!job.file) {
    return answer(null, {resource: {...resource, outputs: job.outputs}});
  }
  const map = messages.core.LiteralMap;
  fs.writeFileSync(`${request.outputPrefix}/outputs.pb`, map.encode(map.create(job.outputs)).finish());
  answer(null, {resource});
}

function deleteTask({request}, answer) {
  const job = jobOf(request);
  if (job) {
    job.deleted = true;
    job.log.push('deleted');
  }
  answer(null, {});  // twice, too
}

function getTaskLogs(call) {
  const job = jobOf(call.request);
  for (const line of (job?.log ?? []).slice(-call.request.lines)) {
    call.write({body: {structuredLines: [{message: `${line}\n`}]}});
  }
  call.end();
}

function getTaskMetrics(_, answer) {
  answer(failed(grpc.status.UNIMPLEMENTED, 'no metrics'));
}

// --- sync ---

function executeTaskSync(call) {
  let header = null;
  let inputs = null;
  call.on('data', (message) => {
    header = message.header ?? header;
    inputs = message.inputs ?? inputs;
  });
  call.on('end', () => {
    if (!header || !inputs) {
      call.emit('error', failed(grpc.status.INVALID_ARGUMENT, 'a header and the inputs are wanted'));
      return;
    }
    const script = plain(header.template.custom);
    const outputs = answerOf(inputs);
    setTimeout(() => {
      call.write({header: {resource: script.fails ? {phase: 'FAILED', message: script.fails} : {phase: 'SUCCEEDED', outputs}}});
      call.end();
    }, 1000 * (script.seconds ?? 0));
  });
}

// --- listing ---

function getAgent({request}, answer) {
  const agent = AGENTS.find(({name}) => name === request.name);
  answer(agent ? null : failed(grpc.status.NOT_FOUND, `there is no agent ${request.name}`), {agent});
}

function listAgents(_, answer) {
  answer(null, {agents: AGENTS});
}

const server = new grpc.Server();
server.addService(services.AsyncAgentService.service, {createTask, getTask, deleteTask, getTaskLogs, getTaskMetrics});
server.addService(services.SyncAgentService.service, {executeTaskSync});
server.addService(services.AgentMetadataService.service, {getAgent, listAgents});
server.bindAsync(process.argv[2] ?? '127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) {
    throw error;
  }
  console.log(`127.0.0.1:${port}`);
});
process.stdin.resume().on('end', () => process.exit(0));
