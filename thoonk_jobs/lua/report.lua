-- args: (id, token, kind (progress, log, emit), number of this report within the claim, data)*
-- replies: 0; or {why, state}

local KEPT = 1000

local function report(id, kind, token, number, data)
  local job, of_kind = T.jobs[id], T.frame(id) .. T.reports[kind].kind
  local member = of_kind .. struct.pack('>dd', token, number) .. data
  if redis.call('ZADD', K.reports, 0, member) == 0 then return end
  local over = redis.call('ZLEXCOUNT', K.reports, '[' .. of_kind, '(' .. of_kind .. '\255') - KEPT
  if over > 0 then
    local oldest = redis.call('ZRANGEBYLEX', K.reports, '[' .. of_kind, '(' .. of_kind .. '\255', 'LIMIT', 0, over)
    redis.call('ZREM', K.reports, unpack(oldest))
  end
  if job[REPORTED] == 0 then
    T.touch(id)
    job[REPORTED] = 1
  end
  if kind == 'progress' then T.tell_watchers(id, job, 'j') end
  if kind ~= 'log' then T.note(kind, id, data) end
end

local answers = {}
for at, id in ipairs(T.items(3, 5)) do
  local first = 5 * at - 2
  local answer = T.ask_holder(id, ARGV[first + 1])
  if not answer then
    report(id, ARGV[first + 2], tonumber(ARGV[first + 1]), tonumber(ARGV[first + 3]), ARGV[first + 4])
    answer = 0
  end
  answers[at] = answer
end
T.commit()
return answers
