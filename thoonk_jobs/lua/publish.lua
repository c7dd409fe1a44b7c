-- publish: absent -> available
-- schedule: absent -> scheduled
-- hold: absent, scheduled, stalled, finished -> waiting
-- postpone: scheduled, waiting, available -> scheduled
-- release: waiting -> available
-- purge: finished -> absent
-- with: limits, retention, watching
-- args: (id, digest, spec, data)*
-- replies: the sum of 1 where the queue held nothing, to be entered in the list of queues, and 2 where more is over
-- and to be settled; then of each item the record; or {id, record} of the holder of its unique name; or {why, state, detail}

local SPECS, BLANK = {}, {struct.unpack(FULL_FORMAT, string.rep('\0', BLANK_SIZE))}
local MOST = T.number_setting('max_payload', 1048576)

local function given(value, name, default, scale)
  if value == value then return value end
  return T.number_setting(name, default) * (scale or 1)
end

local function read_spec(raw)
  local priority, delay, run_at, expires_in, keep, max_attempts, passing, conflict, key, unique, home, backoff =
    struct.unpack(SPEC_FORMAT, raw)
  max_attempts = given(max_attempts, 'max_attempts', 1)
  if backoff == '' then backoff = T.setting('backoff') or '' end
  return {
    priority = given(priority, 'priority', 0),
    delay = delay,
    run_at = run_at,
    expires_in = given(expires_in, 'expires_in', math.huge, 1000),
    keep = given(keep, 'keep', 3600),
    max_attempts = max_attempts > COUNT_LIMIT and 0 or max_attempts,
    passing = passing,
    conflict = conflict,
    key = key,
    unique = unique,
    home = home,
    backoff = backoff == '-' and '' or backoff,
  }
end

local function plan(job, spec)
  job[UNTIL], job[DATED] = 0, 0
  if spec.delay > 0 then job[UNTIL] = T.now + spec.delay end
  if spec.run_at > T.wall then job[UNTIL], job[DATED] = spec.run_at, 1 end
end

local function draft(id, digest, spec)
  local job = {unpack(BLANK)}
  T.jobs[id] = job
  job[PRIORITY], job[ORDER] = spec.priority, T.draw_order(spec.priority == math.huge)
  job[KEEP], job[MAX_ATTEMPTS], job[PASSING] = spec.keep, spec.max_attempts, spec.passing
  job[KEY], job[UNIQUE], job[HOME], job[BACKOFF] = spec.key, spec.unique, spec.home, spec.backoff
  job[DIGEST], job[PUBLISHED_AT] = digest, T.wall
  if spec.expires_in < math.huge then job[EXPIRES] = string.format('%.0f', T.now + spec.expires_in) end
  plan(job, spec)
  return job
end

local function store(id, data)
  local payloads, last = T.payloads, #T.payloads
  payloads[last + 1], payloads[last + 2] = id, data
end

local function holder_of(name)
  if name == '' then return nil end
  local id = T.names[name]
  if id == nil then id = redis.call('HGET', K.names, name) end
  if id then T.load({id}) end
  return id
end

-- The unique name is taken: refuse, answer with its holder, or give the holder the newer data.
local function meet(holder, id, digest, spec, data)
  local job, request = T.jobs[holder], string.sub(redis.sha1hex(id), 1, 16)
  local again = spec.conflict == 2 and job[REQUEST] == request and job[DIGEST] == digest
  if not again and spec.conflict == 2 and EDGES.postpone[job[STATE]] then
    T.touch(holder)
    plan(job, spec)
    if job[UNTIL] == 0 then job[UNTIL] = T.now end
    job[DIGEST], job[REQUEST] = digest, request
    T.move(holder, 'postpone')
    store(holder, data)
  elseif not again and spec.conflict ~= 1 then
    return {'not-unique', job[STATE], holder}
  end
  T.watch(holder, spec.home)
  return {holder}
end

local function publish(id, digest, spec, data)
  local job = T.jobs[id]
  if job and job[STATE] == FINISHED and job[BARE] == 1 and job[UNTIL] <= T.now and T.trusted then
    T.move(id, 'purge')
    T.gone[id] = nil -- nothing is left but the record, which the new job takes
  end
  if job and job[STATE] ~= ABSENT then
    if job[DIGEST] ~= digest then return {'exists', job[STATE], ''} end
    T.watch(id, spec.home)
    return id
  end
  if #data > MOST then return {'too-large', ABSENT, string.format('%.0f', MOST)} end
  local holder = holder_of(spec.unique)
  if holder then return meet(holder, id, digest, spec, data) end
  if draft(id, digest, spec)[UNTIL] > 0 then T.move(id, 'schedule') else T.admit(id, 'publish') end
  store(id, data)
  return id
end

local ids = T.items(3, 4)
local answers = {(T.new_queue and 1 or 0) + (T.sweep() and 2 or 0)}
for at, id in ipairs(ids) do
  local digest, raw, data = ARGV[4 * at], ARGV[4 * at + 1], ARGV[4 * at + 2]
  SPECS[raw] = SPECS[raw] or read_spec(raw)
  answers[at + 1] = publish(id, digest, SPECS[raw], data)
  T.next_item()
end
T.release_freed()
for at = 2, #answers do
  local answer = answers[at]
  if type(answer) == 'string' then
    answers[at] = T.packed[answer] or T.pack(T.jobs[answer])
  elseif #answer == 1 then
    answer[2] = T.packed[answer[1]] or T.pack(T.jobs[answer[1]])
  end
end
return answers
