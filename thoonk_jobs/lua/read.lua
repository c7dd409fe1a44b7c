-- flags: no-writes
-- args: (id)*
-- replies: {record, data, result, last progress} of each; nothing where there is nothing to read

local ids, answers = T.items(3, 1), {}
local payloads, results = redis.call('HMGET', K.payload, unpack(ids)), redis.call('HMGET', K.result, unpack(ids))
for at, id in ipairs(ids) do
  local job = T.jobs[id]
  answers[at] = false
  if job and not T.hidden(job) then
    local progress = {}
    if job[REPORTED] == 1 then
      local prefix = T.frame(id) .. 'p'
      progress = redis.call('ZREVRANGEBYLEX', K.reports, '(' .. prefix .. '\255', '[' .. prefix, 'LIMIT', 0, 1)
      if progress[1] then progress[1] = string.sub(progress[1], #prefix + 17) end
    end
    answers[at] = {T.pack(job), payloads[at], results[at], progress[1] or false}
  end
end
return answers
